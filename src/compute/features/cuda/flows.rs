//! Pairs of pictures → inputs of the flow model: [`crate::features::FlowExtractor`] on a GPU.

use super::OutputTarget;
use super::farneback::DeviceFarneback;
use super::pictures::{AXIS_THREADS, Format, PictureGroup};
use super::tables::DevicePlans;
use super::upload::Upload;
use super::work::BatchInputs;
use crate::features::cpu::resize::Area;
use crate::features::params::FlowParams;
use crate::gpu::GpuError;
use crate::gpu::launch::{Argument, ElementType, GrowingBuffer, Launcher, Pointer, Shape};

/// Picture sizes whose tables are kept, as on the CPU.
const SIZES_KEPT: usize = 4;

/// Computes and encodes optical flow by [`FlowParams`].
pub struct DeviceFlows<L: Launcher> {
    params: FlowParams,
    plans: DevicePlans<L>,
    /// Most recently used last.
    sizes: Vec<DeviceFarneback<L>>,
    gray: GrowingBuffer<L::Memory>,
    scratch: GrowingBuffer<L::Memory>,
}

/// Pairs that cover the same area of the input.
struct AreaGroup {
    area: Area,
    pictures: Vec<PictureGroup>,
    /// Number of pictures.
    count: usize,
    /// Offsets in the upload of the lists of picture numbers, gains and output places.
    pairs: usize,
    gains: usize,
    places: usize,
    pair_count: usize,
}

/// The launches of a batch.
pub(super) struct FlowsPlan {
    groups: Vec<AreaGroup>,
    /// Pairs without flow: offsets of their gains (0) and output places, and their number.
    still: Option<(usize, usize, usize)>,
}

/// The pairs of an area while they are collected.
#[derive(Default)]
struct AreaMembers {
    /// Picture numbers; the index is the place in the group.
    pictures: Vec<usize>,
    pairs: Vec<i32>,
    gains: Vec<f32>,
    places: Vec<i32>,
}

impl AreaMembers {
    fn picture(&mut self, number: usize) -> i32 {
        let known = self.pictures.iter().rposition(|n| *n == number);
        let place = known.unwrap_or_else(|| {
            self.pictures.push(number);
            self.pictures.len() - 1
        });
        i32::try_from(place).expect("a batch has fewer pictures than 2^31")
    }
}

impl<L: Launcher> DeviceFlows<L> {
    /// Makes an extractor.
    ///
    /// # Errors
    /// [`GpuError::Refused`] saying which key is wrong and what is allowed.
    pub fn new(_launcher: &mut L, params: &FlowParams) -> Result<Self, GpuError> {
        params.validate().map_err(GpuError::Refused)?;
        Ok(Self {
            plans: DevicePlans::new((params.width, params.height), params.fit),
            sizes: Vec::new(),
            gray: GrowingBuffer::default(),
            scratch: GrowingBuffer::default(),
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
    ) -> Result<FlowsPlan, GpuError> {
        self.plans.trim();
        let surplus = self.sizes.len().saturating_sub(SIZES_KEPT);
        self.sizes.drain(..surplus);
        let mut areas: Vec<(Area, AreaMembers)> = Vec::new();
        let mut still: Vec<i32> = Vec::new();
        for (place, pair) in work.pairs.iter().enumerate() {
            let place = i32::try_from(place).expect("a batch has fewer pairs than 2^31");
            let mut area = |number: usize| {
                let picture = &work.pictures[number];
                self.plans.area(launcher, (picture.width, picture.height))
            };
            let (first, second) = (area(pair.first)?, area(pair.second)?);
            let (Some(area), true) = (first, first == second && pair.gap_ns > 0) else {
                still.push(place);
                continue;
            };
            let known = areas.iter().position(|(a, _)| *a == area).unwrap_or_else(|| {
                areas.push((area, AreaMembers::default()));
                areas.len() - 1
            });
            let members = &mut areas[known].1;
            let pictures = [members.picture(pair.first), members.picture(pair.second)];
            members.pairs.extend(pictures);
            let nominal_ns = f64::from(self.params.gap_ms) * 1e6;
            members.gains.push((nominal_ns / pair.gap_ns as f64 / f64::from(self.params.clip_px)) as f32);
            members.places.push(place);
        }
        let mut groups = Vec::with_capacity(areas.len());
        for (area, members) in areas {
            let size = (area.width, area.height);
            match self.sizes.iter().position(|s| s.size() == size) {
                Some(i) => self.sizes[i..].rotate_left(1),
                None => {
                    self.sizes.push(DeviceFarneback::new(launcher, size.0, size.1, self.params.farneback)?);
                }
            }
            let chosen = members.pictures.iter().enumerate().map(|(place, number)| (*number, place as i32));
            groups.push(AreaGroup {
                area,
                pictures: PictureGroup::divide(chosen, work, at, upload),
                count: members.pictures.len(),
                pairs: upload.list(&members.pairs),
                gains: upload.list(&members.gains),
                places: upload.list(&members.places),
                pair_count: members.gains.len(),
            });
        }
        let still =
            (!still.is_empty()).then(|| (upload.list(&vec![0f32; still.len()]), upload.list(&still), still.len()));
        Ok(FlowsPlan { groups, still })
    }

    pub(super) fn launch(
        &mut self,
        launcher: &mut L,
        plan: &FlowsPlan,
        base: Pointer,
        target: OutputTarget,
    ) -> Result<(), GpuError> {
        for group in &plan.groups {
            let Area { width, height, .. } = group.area;
            let gray = self.gray.take(launcher, group.count * width * height * size_of::<f32>())?;
            for pictures in &group.pictures {
                let mut arguments = pictures.arguments(base);
                arguments.extend(self.plans.get(pictures.source).axes(launcher));
                arguments.extend([gray.into(), width.into(), height.into()] as [Argument; 3]);
                let shape = Shape::new([width.div_ceil(AXIS_THREADS), height, pictures.count], AXIS_THREADS);
                let kernel = match pictures.format {
                    Format::Rgb8 => "gray_rgb8",
                    Format::Nv12(_) => "gray_nv12",
                };
                launcher.launch(kernel, shape, &arguments)?;
            }
            let farneback = self.sizes.iter().find(|s| s.size() == (width, height));
            let farneback = farneback.expect("the plan made one for every area");
            let pairs = (base.plus(group.pairs), group.pair_count);
            let flow = farneback.flow(launcher, (gray, group.count), pairs, &mut self.scratch)?;
            let lists = (base.plus(group.gains), base.plus(group.places), group.pair_count);
            self.encode(launcher, flow.into(), lists, group.area, target)?;
        }
        if let Some((gains, places, count)) = plan.still {
            let nothing = Area { x: 0, y: 0, width: 0, height: 0 };
            let lists = (base.plus(gains), base.plus(places), count);
            self.encode(launcher, Argument::Null, lists, nothing, target)?;
        }
        Ok(())
    }

    fn encode(
        &self,
        launcher: &mut L,
        flow: Argument,
        (gains, places, count): (Pointer, Pointer, usize),
        area: Area,
        target: OutputTarget,
    ) -> Result<(), GpuError> {
        let (width, height) = (self.params.width, self.params.height);
        let (channel_stride, pixel_stride) = target.layout.strides(width, height);
        let mut arguments: Vec<Argument> = vec![flow, gains.into(), places.into(), target.out.into()];
        arguments.extend([width, height, area.x, area.y, area.width, area.height].map(Argument::from));
        arguments.extend([channel_stride, pixel_stride].map(Argument::from));
        let kernel = match target.numbers {
            ElementType::F32 => "flow_encode_f32",
            ElementType::F16 => "flow_encode_f16",
            ElementType::Bf16 => "flow_encode_bf16",
        };
        launcher.launch(kernel, Shape::new([width.div_ceil(128), height, count], 128), &arguments)
    }
}
