//! Features on a GPU: the kernels that mirror [`super::cpu`], for many seconds of many streams at once.
//!
//! [`BatchInputs`] lists the pictures and sounds of a batch; [`DeviceFeatures::run`] uploads them at once and launches the kernels,
//! which write the models' inputs in place. Everything works on any [`Launcher`]: on a GPU, and in the tests on the CPU. Sizes
//! of pictures and sounds may be mixed; each size is a group with its own launches.
//!
//! | on the CPU | kernels |
//! |---|---|
//! | `cpu/resize.rs`, `cpu/axis.rs` | `resize.cu`, `axis.cuh` |
//! | `cpu/farneback/` | `farneback/expansion.cu`, `farneback/update.cu` |
//! | `flow.rs` | `flow.cu` |
//! | `cpu/spectrum.rs` | `spectrum.cu` |
//! | `cpu/mel.rs`, `sound.rs` | `mel.cu` |

mod farneback;
mod flows;
mod pictures;
mod sounds;
mod tables;
mod upload;
mod work;

use crate::features::params::{AudioParams, FlowParams, PictureParams};
use crate::gpu::launch::{ElementType, KernelModule, Launcher, Layout, Pointer};
use crate::gpu::{GpuError, PRELUDE};

pub use farneback::DeviceFarneback;
pub use flows::DeviceFlows;
pub use pictures::{DevicePictures, Format, Picture};
pub use sounds::{DeviceMel, DeviceSounds, MelImages, cepstra};
pub use upload::Upload;
pub use work::{BatchInputs, PairIndex};

/// The sources of the kernels in compilation order, after [`PRELUDE`].
pub const SOURCES: [&str; 7] = [
    include_str!("kernels/axis.cuh"),
    include_str!("kernels/resize.cu"),
    include_str!("kernels/farneback/expansion.cu"),
    include_str!("kernels/farneback/update.cu"),
    include_str!("kernels/flow.cu"),
    include_str!("kernels/spectrum.cu"),
    include_str!("kernels/mel.cu"),
];

/// Every kernel of [`SOURCES`].
pub const KERNELS: [&str; 24] = [
    "picture_rgb8_f32",
    "picture_rgb8_f16",
    "picture_rgb8_bf16",
    "picture_nv12_f32",
    "picture_nv12_f16",
    "picture_nv12_bf16",
    "gray_rgb8",
    "gray_nv12",
    "farneback_shrink",
    "farneback_expand_5",
    "farneback_expand_7",
    "farneback_iterate",
    "farneback_enlarge",
    "flow_encode_f32",
    "flow_encode_f16",
    "flow_encode_bf16",
    "spectrum_together",
    "spectrum_alone",
    "mel_bands",
    "mel_decibels",
    "mel_cepstra",
    "sound_image_f32",
    "sound_image_f16",
    "sound_image_bf16",
];

/// The kernels of the features, to open a GPU with.
pub const MODULE: KernelModule = KernelModule { name: "features", source, kernels: &KERNELS };

/// All kernels of the features as one source.
pub fn source() -> String {
    format!("{PRELUDE}\n{}", SOURCES.concat())
}

/// Where the inputs of a model are written, one after the other; each has 3 × height × width elements.
#[derive(Clone, Copy, Debug)]
pub struct OutputTarget {
    /// Address of the first input.
    pub out: Pointer,
    /// Element type.
    pub numbers: ElementType,
    /// Order of the channels.
    pub layout: Layout,
}

/// Where the inputs of the three models are written. A modality without a target is not computed.
#[derive(Clone, Copy, Debug, Default)]
pub struct OutputTargets {
    /// Inputs of the RGB model.
    pub pictures: Option<OutputTarget>,
    /// Inputs of the flow model.
    pub flows: Option<OutputTarget>,
    /// Inputs of the sound model.
    pub sounds: Option<OutputTarget>,
}

/// A stage of a batch that has been launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeatureStage {
    /// The upload.
    Upload,
    /// Inputs of the RGB model.
    Pictures,
    /// Inputs of the flow model.
    Flows,
    /// Inputs of the sound model.
    Sounds,
}

/// The extractors of a pack on a GPU, with their tables and scratch memory.
pub struct DeviceFeatures<L: Launcher> {
    /// `None` if the pack has no RGB model.
    pub pictures: Option<DevicePictures<L>>,
    /// `None` if the pack has no flow model.
    pub flows: Option<DeviceFlows<L>>,
    /// `None` if the pack has no audio model.
    pub sounds: Option<DeviceSounds<L>>,
    upload: Upload,
}

impl<L: Launcher> DeviceFeatures<L> {
    /// Makes the extractors; one without parameters is `None`.
    ///
    /// # Errors
    /// [`GpuError::Refused`] naming the wrong key, as [`super::FeatureExtractor::new`]; or the device's error.
    pub fn new(
        launcher: &mut L,
        picture: Option<&PictureParams>,
        flow: Option<&FlowParams>,
        audio: Option<&AudioParams>,
    ) -> Result<Self, GpuError> {
        let named = |section: &'static str| {
            move |error: GpuError| match error {
                GpuError::Refused(cause) => GpuError::Refused(format!("{section}.{cause}")),
                other => other,
            }
        };
        Ok(Self {
            pictures: picture.map(|p| DevicePictures::new(launcher, p)).transpose().map_err(named("picture"))?,
            flows: flow.map(|p| DeviceFlows::new(launcher, p)).transpose().map_err(named("flow"))?,
            sounds: audio.map(|p| DeviceSounds::new(launcher, p)).transpose().map_err(named("audio"))?,
            upload: Upload::default(),
        })
    }

    /// Launches the computation of the inputs that have a target, with one upload and no download. `after` is called after the
    /// launches of each stage, for example to record an event.
    ///
    /// # Errors
    /// The device's error; [`GpuError::OutOfMemory`] when the batch is too large for it.
    pub fn run(
        &mut self,
        launcher: &mut L,
        work: &BatchInputs<'_>,
        targets: &OutputTargets,
        after: &mut dyn FnMut(&mut L, FeatureStage),
    ) -> Result<(), GpuError> {
        let upload = &mut self.upload;
        upload.clear();
        let offsets = upload.pictures(&work.pictures);
        let pictures = match (&mut self.pictures, targets.pictures) {
            (Some(own), Some(target)) => Some((own.plan(launcher, work, &offsets, upload)?, target)),
            _ => None,
        };
        let flows = match (&mut self.flows, targets.flows) {
            (Some(own), Some(target)) => Some((own.plan(launcher, work, &offsets, upload)?, target)),
            _ => None,
        };
        let sounds = match (&mut self.sounds, targets.sounds) {
            (Some(own), Some(target)) => Some((own.plan(launcher, work, upload)?, target)),
            _ => None,
        };
        let bytes = upload.len();
        let base = launcher.upload(bytes, &mut |to| upload.fill(work, to))?;
        after(launcher, FeatureStage::Upload);
        if let (Some(own), Some((plan, target))) = (&mut self.pictures, pictures) {
            own.launch(launcher, &plan, base, target)?;
            after(launcher, FeatureStage::Pictures);
        }
        if let (Some(own), Some((plan, target))) = (&mut self.flows, flows) {
            own.launch(launcher, &plan, base, target)?;
            after(launcher, FeatureStage::Flows);
        }
        if let (Some(own), Some((plan, target))) = (&mut self.sounds, sounds) {
            own.launch(launcher, &plan, base, target)?;
            after(launcher, FeatureStage::Sounds);
        }
        Ok(())
    }
}
