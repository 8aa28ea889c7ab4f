//! Layers on a device against those of `nn`: depthwise convolution with gradients, and the layers of inference with channels
//! last.

use candle_core::{Device, Tensor, Var};
use touchline_compute::gpu::launch::{Argument, ElementType, Launcher, Pointer, Shape, table};
use touchline_compute::nn::{
    Activation, Depthwise, ScaleShift, depthwise_conv2d, depthwise_conv2d_channel_major, global_average, max_pool2d,
};

use super::numbers::{Noise, largest_difference, packed, unpacked};
use super::runner::{Memory, Runner};

/// (N, C, H, W, k, stride, padding): odd and even sizes, pictures smaller than the kernel, strides and kernels that MobileNet
/// does not use.
const CASES: [(usize, usize, usize, usize, usize, usize, usize); 8] = [
    (2, 5, 7, 7, 3, 1, 1),
    (2, 4, 15, 14, 3, 2, 1),
    (1, 3, 1, 1, 3, 1, 1),
    (3, 2, 1, 9, 3, 2, 1),
    (1, 2, 12, 13, 5, 1, 2),
    (1, 2, 13, 11, 5, 3, 1),
    (2, 3, 10, 11, 7, 4, 3),
    (1, 2, 6, 5, 1, 2, 0),
];

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn at(host: &mut Runner, values: &[f32]) -> (Memory, Pointer) {
    let memory = table(host, values).unwrap();
    let pointer = host.pointer(&memory);
    (memory, pointer)
}

#[test]
fn depthwise_convolution_and_its_gradients_equal_the_cpu() {
    let (mut host, mut noise, cpu) = (Runner::new(), Noise::new(11), &Device::Cpu);
    for case in CASES {
        let (n, c, h, w, k, stride, padding) = case;
        for channel_major in [false, true] {
            let outer = if channel_major { (c, n) } else { (n, c) };
            let x = Var::from_vec(noise.many(n * c * h * w), (outer.0, outer.1, h, w), cpu).unwrap();
            let weight = Var::from_vec(noise.many(c * k * k), (c, 1, k, k), cpu).unwrap();
            let y = match channel_major {
                false => depthwise_conv2d(&x, &weight, stride, padding).unwrap(),
                true => depthwise_conv2d_channel_major(&x, &weight, stride, padding).unwrap(),
            };
            let (out_h, out_w) = (y.dims()[2], y.dims()[3]);
            let upstream = Tensor::from_vec(noise.many(y.elem_count()), y.shape(), cpu).unwrap();
            let grads = (&y * &upstream).unwrap().sum_all().unwrap().backward().unwrap();

            let (_x, x_at) = at(&mut host, &flat(&x));
            let (_w, w_at) = at(&mut host, &flat(&weight));
            let (_g, g_at) = at(&mut host, &flat(&upstream));
            let sizes = [h, w, k, stride, padding, out_h, out_w].map(Argument::from);
            let order = [n, c, usize::from(channel_major)].map(Argument::from);
            let out = host.memory(y.elem_count() * 4).unwrap();
            let out = (host.pointer(&out), out);
            let mut arguments: Vec<Argument> = vec![x_at.into(), w_at.into(), Argument::Null, out.0.into()];
            arguments.push(((n * c) as u64).into());
            arguments.extend(order);
            arguments.extend(sizes);
            arguments.extend([f32::NEG_INFINITY, f32::INFINITY].map(Argument::from));
            host.launch("depthwise_forward_f32", Shape::flat(y.elem_count() as u64), &arguments).unwrap();
            let difference = largest_difference(&host.floats(out.0, y.elem_count()), &flat(&y));
            assert!(difference < 1e-5, "{case:?} {channel_major}: forward {difference}");

            let out = host.memory(x.elem_count() * 4).unwrap();
            let out = (host.pointer(&out), out);
            let mut arguments: Vec<Argument> = vec![g_at.into(), w_at.into(), out.0.into(), ((n * c) as u64).into()];
            arguments.extend(order);
            arguments.extend(sizes);
            host.launch("depthwise_backward_input", Shape::flat(x.elem_count() as u64), &arguments).unwrap();
            let difference = largest_difference(&host.floats(out.0, x.elem_count()), &flat(grads.get(&x).unwrap()));
            assert!(difference < 1e-5, "{case:?} {channel_major}: gradient of the input {difference}");

            let out = host.memory(weight.elem_count() * 4).unwrap();
            let out = (host.pointer(&out), out);
            let mut arguments: Vec<Argument> = vec![x_at.into(), g_at.into(), out.0.into()];
            arguments.extend(order);
            arguments.extend(sizes);
            host.launch("depthwise_backward_weight", Shape::new([k * k, c, 1], 256), &arguments).unwrap();
            let want = flat(grads.get(&weight).unwrap());
            let difference = largest_difference(&host.floats(out.0, want.len()), &want);
            assert!(difference < 1e-4, "{case:?} {channel_major}: gradient of the weights {difference}");
        }
    }
}

/// (N, C, H, W) → the numbers of (N, H, W, C).
fn channels_last(x: &Tensor) -> Vec<f32> {
    flat(&x.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap())
}

struct Case {
    name: &'static str,
    numbers: ElementType,
    /// The permitted error by rounding the values and the result, relative to the largest value.
    tolerance: f32,
}

const NUMBERS: [Case; 3] = [
    Case { name: "f32", numbers: ElementType::F32, tolerance: 1e-6 },
    Case { name: "f16", numbers: ElementType::F16, tolerance: 2e-3 },
    Case { name: "bf16", numbers: ElementType::Bf16, tolerance: 2e-2 },
];

fn upload(host: &mut Runner, values: &[f32], numbers: ElementType) -> (Memory, Pointer) {
    let bytes = packed(values, numbers);
    let memory = host.memory(bytes.len()).unwrap();
    host.write(&memory, &bytes).unwrap();
    let pointer = host.pointer(&memory);
    (memory, pointer)
}

/// Launches a kernel and compares its output with `want`.
fn check(
    host: &mut Runner,
    case: &Case,
    kernel: [&'static str; 3],
    want: &[f32],
    arguments: impl FnOnce(Pointer) -> Vec<Argument>,
) {
    let out = host.memory(want.len() * case.numbers.bytes()).unwrap();
    let at = host.pointer(&out);
    let kernel = kernel[NUMBERS.iter().position(|c| c.name == case.name).unwrap()];
    host.launch(kernel, Shape::flat(want.len() as u64 / 8), &arguments(at)).unwrap();
    let got = unpacked(&host.read(at, want.len() * case.numbers.bytes()), case.numbers);
    let largest = want.iter().fold(1f32, |m, v| m.max(v.abs()));
    let difference = largest_difference(&got, want) / largest;
    assert!(difference <= case.tolerance, "{kernel}: {difference}");
}

#[test]
fn layers_with_channels_last_equal_the_cpu() {
    let (mut host, mut noise, cpu) = (Runner::new(), Noise::new(12), &Device::Cpu);
    let activation = (Activation::Relu6, [0f32, 6.0].map(Argument::from));
    for (n, c, h, w) in [(1, 8, 1, 1), (2, 24, 7, 5), (3, 16, 12, 9)] {
        let eights = |count: usize| Argument::U64(count as u64 / 8);
        let values = |count: usize, noise: &mut Noise| noise.many(count).iter().map(|v| 4.0 * v).collect::<Vec<_>>();
        let x = Tensor::from_vec(values(n * c * h * w, &mut noise), (n, c, h, w), cpu).unwrap();
        let scale = Tensor::from_vec(values(c, &mut noise), c, cpu).unwrap();
        let shift = Tensor::from_vec(values(c, &mut noise), c, cpu).unwrap();
        let (_scale, scale_at) = at(&mut host, &flat(&scale));
        let (_shift, shift_at) = at(&mut host, &flat(&shift));
        for case in &NUMBERS {
            let (_x, x_at) = upload(&mut host, &channels_last(&x), case.numbers);
            let channels = Argument::from(c);

            let layer = ScaleShift::new(&scale, &shift, activation.0).unwrap();
            let want = channels_last(&layer.forward(&x).unwrap());
            let kernels = ["layer_scale_shift_f32", "layer_scale_shift_f16", "layer_scale_shift_bf16"];
            check(&mut host, case, kernels, &want, |out| {
                let [low, high] = activation.1;
                vec![x_at.into(), scale_at.into(), shift_at.into(), out.into(), channels, eights(want.len()), low, high]
            });

            for (k, stride, padding) in [(3, 1, 1), (3, 2, 1), (5, 1, 2)] {
                let weight = Tensor::from_vec(noise.many(c * k * k), (c, 1, k, k), cpu).unwrap();
                let by_tap = flat(&weight.reshape((c, k * k)).unwrap().t().unwrap().contiguous().unwrap());
                let (_w, w_at) = at(&mut host, &by_tap);
                let layer = Depthwise::new(&weight, &shift, stride, padding, activation.0).unwrap();
                let y = layer.forward(&x).unwrap();
                let sizes = [c, h, w, k, stride, padding, y.dims()[2], y.dims()[3]].map(Argument::from);
                let want = channels_last(&y);
                let kernels = ["layer_depthwise_f32", "layer_depthwise_f16", "layer_depthwise_bf16"];
                check(&mut host, case, kernels, &want, |out| {
                    let mut arguments = vec![x_at.into(), w_at.into(), shift_at.into(), out.into()];
                    arguments.extend(sizes);
                    arguments.push(eights(want.len()));
                    arguments.extend(activation.1);
                    arguments
                });
            }

            let y = max_pool2d(&x, 3, 2, 1).unwrap();
            let sizes = [c, h, w, 3, 2, 1, y.dims()[2], y.dims()[3]].map(Argument::from);
            let want = channels_last(&y);
            let kernels = ["layer_max_pool_f32", "layer_max_pool_f16", "layer_max_pool_bf16"];
            check(&mut host, case, kernels, &want, |out| {
                let mut arguments = vec![x_at.into(), out.into()];
                arguments.extend(sizes);
                arguments.push(eights(want.len()));
                arguments
            });

            let want = flat(&global_average(&x).unwrap());
            let kernels = ["layer_average_f32", "layer_average_f16", "layer_average_bf16"];
            check(&mut host, case, kernels, &want, |out| {
                vec![x_at.into(), out.into(), channels, (h * w).into(), eights(want.len())]
            });
        }
    }
}

/// In place, with and without a residual.
#[test]
fn bias_residual_and_activation_are_added_in_place() {
    let (mut host, mut noise) = (Runner::new(), Noise::new(13));
    let (pixels, c) = (35, 24);
    let (x, r, bias) = (noise.many(pixels * c), noise.many(pixels * c), noise.many(c));
    let (_bias, bias_at) = at(&mut host, &bias);
    for (case, kernel) in NUMBERS.iter().zip(["layer_finish_f32", "layer_finish_f16", "layer_finish_bf16"]) {
        for residual in [false, true] {
            let (_x, x_at) = upload(&mut host, &x, case.numbers);
            let (_r, r_at) = upload(&mut host, &r, case.numbers);
            let arguments = [
                x_at.into(),
                bias_at.into(),
                if residual { r_at.into() } else { Argument::Null },
                c.into(),
                ((pixels * c / 8) as u64).into(),
                0f32.into(),
                f32::INFINITY.into(),
            ];
            host.launch(kernel, Shape::flat((pixels * c / 8) as u64), &arguments).unwrap();
            let got = unpacked(&host.read(x_at, x.len() * case.numbers.bytes()), case.numbers);
            let added = |i: usize| x[i] + bias[i % c] + if residual { r[i] } else { 0.0 };
            let want: Vec<f32> = (0..x.len()).map(|i| added(i).max(0.0)).collect();
            assert!(largest_difference(&got, &want) <= 3.0 * case.tolerance, "{kernel} {residual}");
        }
    }
}
