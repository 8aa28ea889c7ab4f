//! Pictures → inputs of the RGB model, and gray pictures for flow.

use super::OutputTarget;
use super::tables::DevicePlans;
use super::upload::Upload;
use super::work::BatchInputs;
use crate::features::cpu::nv12::ColorMatrix;
use crate::features::cpu::resize::normal;
use crate::features::params::{Filter, PictureParams};
use crate::gpu::GpuError;
use crate::gpu::launch::{Argument, ElementType, Launcher, Pointer, Shape, table};

/// Threads of a block that resamples; must equal `AXIS_THREADS` of `axis.cuh`.
pub(super) const AXIS_THREADS: usize = 128;

/// Pixel format of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Packed RGB8, three bytes per pixel.
    Rgb8,
    /// Luma and chroma, as [`crate::features::cpu::nv12`] describes it: half the bytes of RGB8.
    Nv12(ColorMatrix),
}

/// A picture in host memory.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// Rows without gaps, in `format`.
    pub data: &'a [u8],
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// How `data` encodes pixels.
    pub format: Format,
}

/// Pictures of one size and format in one launch.
pub(super) struct PictureGroup {
    pub source: (usize, usize),
    pub format: Format,
    /// Offsets in the upload of two lists: the pictures' own offsets, and their output places.
    pub offsets: usize,
    pub places: usize,
    /// Offset in the upload of the colour matrix; NV12 only.
    pub matrix: Option<usize>,
    pub count: usize,
}

impl PictureGroup {
    /// Groups `chosen`, pairs of picture number and output place, by size and format, and adds the lists to the upload.
    /// Pictures without pixels are skipped.
    pub fn divide(
        chosen: impl Iterator<Item = (usize, i32)>,
        work: &BatchInputs<'_>,
        at: &[u64],
        upload: &mut Upload,
    ) -> Vec<PictureGroup> {
        type AreaMembers = (Vec<u64>, Vec<i32>);
        let mut groups: Vec<((usize, usize), Format, AreaMembers)> = Vec::new();
        for (number, place) in chosen {
            let Picture { width, height, format, .. } = work.pictures[number];
            if width == 0 || height == 0 {
                continue;
            }
            let known = groups.iter().position(|g| g.0 == (width, height) && g.1 == format);
            let known = known.unwrap_or_else(|| {
                groups.push(((width, height), format, AreaMembers::default()));
                groups.len() - 1
            });
            groups[known].2.0.push(at[number]);
            groups[known].2.1.push(place);
        }
        let mut put = |(source, format, (offsets, places)): ((usize, usize), Format, AreaMembers)| PictureGroup {
            source,
            format,
            offsets: upload.list(&offsets),
            places: upload.list(&places),
            matrix: match format {
                Format::Rgb8 => None,
                Format::Nv12(matrix) => Some(upload.list(&matrix.coefficients())),
            },
            count: offsets.len(),
        };
        groups.into_iter().map(&mut put).collect()
    }

    /// The kernel arguments before the axes: pixels, lists, sizes, and for NV12 the matrix.
    pub fn arguments(&self, base: Pointer) -> Vec<Argument> {
        let mut arguments: Vec<Argument> = vec![
            base.into(),
            base.plus(self.offsets).into(),
            base.plus(self.places).into(),
            self.source.0.into(),
            self.source.1.into(),
        ];
        arguments.extend(self.matrix.map(|at| Argument::from(base.plus(at))));
        arguments
    }
}

/// Resizes and normalises pictures by [`PictureParams`]: [`crate::features::PictureExtractor`] on a GPU.
pub struct DevicePictures<L: Launcher> {
    params: PictureParams,
    plans: DevicePlans<L>,
    /// Three gains and three biases.
    normal: L::Memory,
}

/// The launches of a batch.
pub(super) struct PicturesPlan {
    groups: Vec<PictureGroup>,
    /// Pictures without pixels: offsets of their lists in the upload, and their number.
    empty: Option<(usize, usize, usize)>,
}

impl<L: Launcher> DevicePictures<L> {
    /// Makes an extractor.
    ///
    /// # Errors
    /// [`GpuError::Refused`] saying which key is wrong and what is allowed; or the device's error.
    pub fn new(launcher: &mut L, params: &PictureParams) -> Result<Self, GpuError> {
        params.validate().map_err(GpuError::Refused)?;
        if params.filter != Filter::Bilinear {
            return Err(GpuError::Refused("filter: only bilinear is computed on a GPU".into()));
        }
        let (gain, bias) = normal(params);
        Ok(Self {
            plans: DevicePlans::new((params.width, params.height), params.fit),
            normal: table(launcher, &[gain, bias].concat())?,
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

    pub(super) fn plan(
        &mut self,
        launcher: &mut L,
        work: &BatchInputs<'_>,
        at: &[u64],
        upload: &mut Upload,
    ) -> Result<PicturesPlan, GpuError> {
        self.plans.trim();
        let chosen = || work.rgb.iter().enumerate().map(|(place, number)| (*number, place as i32));
        let groups = PictureGroup::divide(chosen(), work, at, upload);
        for group in &groups {
            self.plans.area(launcher, group.source)?;
        }
        let is_empty = |number: usize| work.pictures[number].width == 0 || work.pictures[number].height == 0;
        let empty: Vec<i32> = chosen().filter(|(number, _)| is_empty(*number)).map(|(_, place)| place).collect();
        let empty =
            (!empty.is_empty()).then(|| (upload.list(&vec![0u64; empty.len()]), upload.list(&empty), empty.len()));
        Ok(PicturesPlan { groups, empty })
    }

    pub(super) fn launch(
        &mut self,
        launcher: &mut L,
        plan: &PicturesPlan,
        base: Pointer,
        target: OutputTarget,
    ) -> Result<(), GpuError> {
        let (width, height) = (self.params.width, self.params.height);
        let (channel_stride, pixel_stride) = target.layout.strides(width, height);
        let normal = launcher.pointer(&self.normal);
        for group in &plan.groups {
            let own = self.plans.get(group.source);
            let area = own.area();
            let mut arguments = group.arguments(base);
            arguments.extend(own.axes(launcher));
            arguments.extend([target.out.into(), normal.into()] as [Argument; 2]);
            arguments.extend([width, height, area.x, area.y, area.width, area.height].map(Argument::from));
            arguments.extend([channel_stride, pixel_stride].map(Argument::from));
            let shape = Shape::new([width.div_ceil(AXIS_THREADS), height, group.count], AXIS_THREADS);
            launcher.launch(kernel(group.format, target.numbers), shape, &arguments)?;
        }
        if let Some((offsets, places, count)) = plan.empty {
            // An empty area: every output is padding, and neither pixels nor tables are read.
            let mut arguments: Vec<Argument> =
                vec![base.into(), base.plus(offsets).into(), base.plus(places).into(), 1usize.into(), 1usize.into()];
            let no_axis = [Argument::Null, Argument::Null, Argument::I32(0)];
            arguments.extend([no_axis, no_axis].concat());
            arguments.extend([target.out.into(), normal.into()] as [Argument; 2]);
            arguments.extend([width, height, 0, 0, 0, 0].map(Argument::from));
            arguments.extend([channel_stride, pixel_stride].map(Argument::from));
            let shape = Shape::new([width.div_ceil(AXIS_THREADS), height, count], AXIS_THREADS);
            launcher.launch(kernel(Format::Rgb8, target.numbers), shape, &arguments)?;
        }
        Ok(())
    }
}

fn kernel(format: Format, numbers: ElementType) -> &'static str {
    match (format, numbers) {
        (Format::Rgb8, ElementType::F32) => "picture_rgb8_f32",
        (Format::Rgb8, ElementType::F16) => "picture_rgb8_f16",
        (Format::Rgb8, ElementType::Bf16) => "picture_rgb8_bf16",
        (Format::Nv12(_), ElementType::F32) => "picture_nv12_f32",
        (Format::Nv12(_), ElementType::F16) => "picture_nv12_f16",
        (Format::Nv12(_), ElementType::Bf16) => "picture_nv12_bf16",
    }
}
