//! Samples → log-mel images, MFCC and inputs of the sound model: [`LogMel`], [`Mfcc`] and
//! [`crate::features::SoundExtractor`] on a GPU.

use super::OutputTarget;
use super::tables::AxisTable;
use super::upload::Upload;
use super::work::BatchInputs;
use crate::features::cpu::mel::{LogMel, Mfcc};
use crate::features::cpu::spectrum::SpectrumTables;
use crate::features::params::{AudioParams, MelParams};
use crate::features::sound::whole;
use crate::gpu::GpuError;
use crate::gpu::launch::{
    Argument, ElementType, GRID_SIDE, GrowingBuffer, Launcher, Pointer, SHARED_BYTES, Shape, table,
};

/// Threads of the block that converts an image to decibels; must equal the constant in `mel.cu`.
const DECIBEL_THREADS: usize = 256;

/// Makes log-mel images of many sounds of one length.
pub struct DeviceMel<L: Launcher> {
    params: MelParams,
    window: L::Memory,
    transform: DeviceTransform<L>,
    firsts: L::Memory,
    counts: L::Memory,
    begins: L::Memory,
    weights: L::Memory,
    power: GrowingBuffer<L::Memory>,
    images: GrowingBuffer<L::Memory>,
}

enum DeviceTransform<L: Launcher> {
    Together { twiddles: L::Memory, unfold: L::Memory, place: L::Memory },
    Alone { turns: L::Memory },
}

/// Log-mel images in device memory: sound × band × column f32.
#[derive(Clone, Copy, Debug)]
pub struct MelImages {
    /// Address of the first image.
    pub at: Pointer,
    /// Bands, the height of an image.
    pub bands: usize,
    /// Columns, the width of an image.
    pub columns: usize,
}

impl<L: Launcher> DeviceMel<L> {
    /// Makes the tables.
    ///
    /// # Errors
    /// [`GpuError::Refused`] saying which parameter is wrong and what is allowed; or the device's error.
    pub fn new(launcher: &mut L, params: &MelParams) -> Result<Self, GpuError> {
        let mel = LogMel::new(params).map_err(GpuError::Refused)?;
        let (window, transform) = mel.spectra().tables();
        let fits = params.n_fft * size_of::<f64>() <= SHARED_BYTES;
        let (window, transform) = match transform {
            SpectrumTables::Together { twiddles, unfold, place } if fits => {
                let twiddles = table(launcher, twiddles.as_flattened())?;
                let unfold = table(launcher, unfold.as_flattened())?;
                (window.to_vec(), DeviceTransform::Together { twiddles, unfold, place: table(launcher, place)? })
            }
            // A frame that does not fit shared memory is transformed by the definition, with the unscaled window.
            SpectrumTables::Together { .. } => {
                let turn = |k: usize| 2.0 * std::f64::consts::PI * k as f64 / params.n_fft as f64;
                let turns: Vec<f64> = (0..params.n_fft).flat_map(|k| [turn(k).cos(), turn(k).sin()]).collect();
                (window.iter().map(|w| 2.0 * w).collect(), DeviceTransform::Alone { turns: table(launcher, &turns)? })
            }
            SpectrumTables::Alone { turns } => {
                (window.to_vec(), DeviceTransform::Alone { turns: table(launcher, turns.as_flattened())? })
            }
        };
        let (filters, weights) = mel.bank();
        let (mut firsts, mut counts, mut begins, mut begin) = (Vec::new(), Vec::new(), Vec::new(), 0i32);
        for (first, bins) in filters {
            let bins = i32::try_from(bins).expect("a spectrum is small");
            firsts.push(i32::try_from(first).expect("a spectrum is small"));
            counts.push(bins);
            begins.push(begin);
            begin += bins;
        }
        Ok(Self {
            window: table(launcher, &window)?,
            transform,
            firsts: table(launcher, &firsts)?,
            counts: table(launcher, &counts)?,
            begins: table(launcher, &begins)?,
            weights: table(launcher, weights)?,
            power: GrowingBuffer::default(),
            images: GrowingBuffer::default(),
            params: params.clone(),
        })
    }

    /// Mel power of `count` sounds of `samples` each, one after the other at `sounds`; converted to decibels if `decibels`.
    /// The images are valid until the next call.
    ///
    /// # Errors
    /// The device's error; [`GpuError::Refused`] for more sounds than the grid of a launch allows.
    pub fn images(
        &mut self,
        launcher: &mut L,
        sounds: Pointer,
        (count, samples): (usize, usize),
        decibels: bool,
    ) -> Result<MelImages, GpuError> {
        if count > GRID_SIDE {
            return Err(GpuError::Refused(format!("{count} sounds in one batch; at most {GRID_SIDE} are possible")));
        }
        let MelParams { n_fft, hop, bands, floor, top_db, .. } = self.params;
        let (columns, bins) = (1 + samples / hop, n_fft / 2 + 1);
        let power = self.power.take(launcher, count * columns * bins * size_of::<f64>())?;
        let images = self.images.take(launcher, count * columns * bands * size_of::<f32>())?;
        let mut arguments: Vec<Argument> = vec![sounds.into(), samples.into(), hop.into(), n_fft.into()];
        arguments.push(launcher.pointer(&self.window).into());
        match &self.transform {
            DeviceTransform::Together { twiddles, unfold, place } => {
                arguments.extend([twiddles, unfold, place].map(|m| Argument::from(launcher.pointer(m))));
                arguments.push(power.into());
                let threads = (n_fft / 8).next_multiple_of(32).min(256);
                let shape = Shape::new([columns, count, 1], threads).with_shared(n_fft * size_of::<f64>());
                launcher.launch("spectrum_together", shape, &arguments)?;
            }
            DeviceTransform::Alone { turns } => {
                arguments.extend([launcher.pointer(turns).into(), power.into()] as [Argument; 2]);
                launcher.launch("spectrum_alone", Shape::new([columns, count, 1], 128), &arguments)?;
            }
        }
        let mut arguments: Vec<Argument> = vec![power.into(), bins.into()];
        let bank = [&self.firsts, &self.counts, &self.begins, &self.weights];
        arguments.extend(bank.map(|m| Argument::from(launcher.pointer(m))));
        arguments.extend([images.into(), bands.into()] as [Argument; 2]);
        launcher.launch("mel_bands", Shape::new([columns, count, 1], 128), &arguments)?;
        if decibels {
            let arguments = [
                images.into(),
                (bands * columns).into(),
                floor.into(),
                // `top_db` is positive in a pack, so -1 means none.
                top_db.unwrap_or(-1.0).into(),
            ];
            launcher.launch("mel_decibels", Shape::new([count, 1, 1], DECIBEL_THREADS), &arguments)?;
        }
        Ok(MelImages { at: images, bands, columns })
    }
}

/// The orthonormal DCT-II of log-mel images: [`Mfcc`] on a GPU. `out` is sound × coefficient × column f32.
///
/// # Errors
/// [`GpuError::Refused`] as [`Mfcc::new`]; or the device's error.
pub fn cepstra<L: Launcher>(
    launcher: &mut L,
    mel: &mut DeviceMel<L>,
    sounds: Pointer,
    (count, samples): (usize, usize),
    coefficients: usize,
    out: Pointer,
) -> Result<(), GpuError> {
    let twin = Mfcc::new(&mel.params, coefficients).map_err(GpuError::Refused)?;
    let basis = table(launcher, twin.parts().1)?;
    let images = mel.images(launcher, sounds, (count, samples), true)?;
    let arguments =
        [images.at.into(), images.bands.into(), images.columns.into(), launcher.pointer(&basis).into(), out.into()];
    let shape = Shape::new([images.columns.div_ceil(128), coefficients, count], 128);
    launcher.launch("mel_cepstra", shape, &arguments)
}

/// Makes the sound model's inputs by [`AudioParams`].
pub struct DeviceSounds<L: Launcher> {
    params: AudioParams,
    mel: DeviceMel<L>,
    vertical: AxisTable<L>,
    /// Resize tables by number of columns, for the last few numbers.
    horizontals: Vec<(usize, AxisTable<L>)>,
}

/// Numbers of columns whose tables are kept. Usually all sounds are one second long.
const HORIZONTALS_KEPT: usize = 4;

/// Sounds of one length.
struct LengthGroup {
    samples: usize,
    count: usize,
    /// Offsets in the upload.
    sounds: usize,
    places: usize,
}

/// The launches of a batch.
pub(super) struct SoundsPlan {
    groups: Vec<LengthGroup>,
}

impl<L: Launcher> DeviceSounds<L> {
    /// Makes the tables.
    ///
    /// # Errors
    /// [`GpuError::Refused`] saying which key is wrong and what is allowed; or the device's error.
    pub fn new(launcher: &mut L, params: &AudioParams) -> Result<Self, GpuError> {
        params.validate().map_err(GpuError::Refused)?;
        Ok(Self {
            mel: DeviceMel::new(launcher, &params.mel)?,
            vertical: AxisTable::new(launcher, &whole(params.mel.bands, params.height))?,
            horizontals: Vec::new(),
            params: params.clone(),
        })
    }

    /// Width and height of an input, pixels.
    pub fn size(&self) -> (usize, usize) {
        (self.params.width, self.params.height)
    }

    /// Elements of one input: 3 × height × width.
    pub fn input_len(&self) -> usize {
        3 * self.params.width * self.params.height
    }

    /// The log-mel part.
    pub fn mel(&mut self) -> &mut DeviceMel<L> {
        &mut self.mel
    }

    pub(super) fn plan(
        &mut self,
        launcher: &mut L,
        work: &BatchInputs<'_>,
        upload: &mut Upload,
    ) -> Result<SoundsPlan, GpuError> {
        let surplus = self.horizontals.len().saturating_sub(HORIZONTALS_KEPT);
        self.horizontals.drain(..surplus);
        let mut lengths: Vec<(usize, Vec<usize>)> = Vec::new();
        for (number, sound) in work.sounds.iter().enumerate() {
            match lengths.iter_mut().find(|(samples, _)| *samples == sound.len()) {
                Some((_, numbers)) => numbers.push(number),
                None => lengths.push((sound.len(), vec![number])),
            }
        }
        let mut groups = Vec::with_capacity(lengths.len());
        for (samples, numbers) in lengths {
            let columns = 1 + samples / self.params.mel.hop;
            if !self.horizontals.iter().any(|(c, _)| *c == columns) {
                self.horizontals.push((columns, AxisTable::new(launcher, &whole(columns, self.params.width))?));
            }
            let places: Vec<i32> =
                numbers.iter().map(|n| i32::try_from(*n).expect("a batch has fewer sounds than 2^31")).collect();
            let sounds = upload.sounds(&numbers, samples);
            groups.push(LengthGroup { samples, count: numbers.len(), sounds, places: upload.list(&places) });
        }
        Ok(SoundsPlan { groups })
    }

    pub(super) fn launch(
        &mut self,
        launcher: &mut L,
        plan: &SoundsPlan,
        base: Pointer,
        target: OutputTarget,
    ) -> Result<(), GpuError> {
        let (width, height) = (self.params.width, self.params.height);
        let (channel_stride, pixel_stride) = target.layout.strides(width, height);
        let kernel = match target.numbers {
            ElementType::F32 => "sound_image_f32",
            ElementType::F16 => "sound_image_f16",
            ElementType::Bf16 => "sound_image_bf16",
        };
        for group in &plan.groups {
            let sounds = base.plus(group.sounds);
            let images = self.mel.images(launcher, sounds, (group.count, group.samples), true)?;
            let horizontal = self.horizontals.iter().find(|(columns, _)| *columns == images.columns);
            let (_, horizontal) = horizontal.expect("the plan made a table for every length");
            let mut arguments: Vec<Argument> = vec![images.at.into(), images.bands.into(), images.columns.into()];
            arguments.extend(horizontal.arguments(launcher));
            arguments.extend(self.vertical.arguments(launcher));
            arguments.extend([self.params.mean_db.into(), (1.0 / self.params.std_db).into()] as [Argument; 2]);
            arguments.extend([base.plus(group.places).into(), target.out.into()] as [Argument; 2]);
            arguments
                .extend([width.into(), height.into(), channel_stride.into(), pixel_stride.into()] as [Argument; 4]);
            let shape = Shape::new([width.div_ceil(128), height, group.count], 128);
            launcher.launch(kernel, shape, &arguments)?;
        }
        Ok(())
    }
}
