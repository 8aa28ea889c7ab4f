//! Graphs of a few layers, at odd sizes and on every instruction set, against candle's own operations.

use candle_core::{DType, Device, Result, Tensor};

use super::{Arithmetic, Fused, Graph, Level, Observed, Precision, Value};
use crate::nn::test_tensors::TestTensors;
use crate::nn::{Activation, BuildHybrid, max_pool2d};

/// Relative to the largest value. The sums have up to thousands of products in another order. In bf16 and int8, whose values have
/// eight bits, each of a few layers also rounds.
fn tolerance(precision: Precision) -> f32 {
    match precision {
        Precision::F32 => 1e-5,
        Precision::Bf16 => 2.5e-2,
        Precision::Int8 => 6e-2,
    }
}

type TestKernels = (Level, Precision);

fn kernels() -> impl Iterator<Item = TestKernels> {
    let available = Level::ALL.into_iter().filter(|level| level.is_there());
    available.flat_map(|level| Precision::ALL.map(|precision| (level, precision)))
}

/// The network that `make` builds in a graph with the channels of `x`. Its ranges for int8 are observed on `x`.
fn fused(
    (level, precision): TestKernels,
    x: &Tensor,
    make: impl Fn(&mut Graph, Value) -> Result<Value>,
    end: impl Fn(Graph, Value) -> Result<Graph>,
) -> Result<Fused> {
    let whole = |level, arithmetic| {
        let (mut graph, input) = Graph::new(level, arithmetic, x.dim(1)?)?;
        let last = make(&mut graph, input)?;
        Ok::<_, candle_core::Error>(Fused::new(end(graph, last)?))
    };
    match precision {
        Precision::F32 => whole(level, Arithmetic::F32),
        Precision::Bf16 => whole(level, Arithmetic::Bf16),
        Precision::Int8 => {
            let mut observed = Observed::default();
            whole(Level::Portable, Arithmetic::F32)?.observe(x, &mut observed)?;
            whole(level, Arithmetic::Int8(&observed.ranges()?))
        }
    }
}

fn assert_close(case: &str, kernels: TestKernels, got: &Tensor, want: &Tensor) -> Result<()> {
    let case = format!("{} {} {case}", kernels.0.name(), kernels.1.name());
    assert_eq!(got.dims(), want.dims(), "{case}");
    let error = (got - want)?.abs()?.max_all()?.to_scalar::<f32>()?;
    let scale = want.abs()?.max_all()?.to_scalar::<f32>()?;
    assert!(error <= tolerance(kernels.1) * scale.max(1.0), "{case}: off by {error} of {scale}");
    Ok(())
}

/// candle's convolution with bias. The number of groups follows from `weight`.
fn conv(x: &Tensor, (weight, bias): &(Tensor, Tensor), stride: usize, padding: usize) -> Result<Tensor> {
    let groups = x.dim(1)? / weight.dim(1)?;
    let y = x.conv2d(weight, padding, stride, 1, groups)?;
    y.broadcast_add(&bias.reshape((1, bias.elem_count(), 1, 1))?)
}

/// A convolution of the planar picture, one of blocks with a parallel shortcut, a depthwise one, a pool, a scale and shift.
#[test]
fn layers_agree_with_candle_at_odd_sizes() -> Result<()> {
    let numbers = &mut TestTensors::new(7);
    for round in 0..48 {
        let (n, h, w) = (numbers.one_of(&[1, 2, 3]), numbers.size(9..40), numbers.size(9..40));
        let (inputs, middle, outputs) = (numbers.one_of(&[1, 3, 4]), numbers.size(1..90), numbers.size(1..90));
        let (k0, s0) = (numbers.one_of(&[1, 3, 5, 7]), numbers.one_of(&[1, 2]));
        let (k, s, p) = numbers.one_of(&[(1, 1, 0), (1, 2, 0), (3, 1, 1), (3, 2, 1), (5, 1, 2), (3, 1, 0), (2, 2, 0)]);
        let (dk, ds, dp) = numbers.one_of(&[(3, 1, 1), (3, 2, 1), (5, 1, 2), (5, 2, 2), (3, 3, 1), (3, 1, 2)]);
        let pool = numbers.one_of(&[(3, 2, 1), (2, 2, 0), (3, 1, 1)]);
        let act = numbers.one_of(&[Activation::Identity, Activation::Relu, Activation::Relu6]);
        let shortcut = numbers.one_of(&[true, false]);
        let case = format!(
            "round {round}: {n}x{inputs}x{h}x{w}, {k0}/{s0} to {middle}, {k}/{s}+{p} to {outputs}, depthwise \
             {dk}/{ds}+{dp}, pool {pool:?}, {act:?}, shortcut {shortcut}"
        );
        let x = numbers.between(-1.0, 1.0, (n, inputs, h, w));
        let first = numbers.layer(middle, inputs, k0);
        let second = numbers.layer(outputs, middle, k);
        let parallel = numbers.layer(outputs, middle, k);
        let alone = (numbers.layer(outputs, 1, dk).0, numbers.between(-0.5, 0.5, outputs));
        let norm = (numbers.between(-1.0, 1.0, outputs), numbers.between(-0.5, 0.5, outputs));

        let a = act.apply(&conv(&x, &first, s0, k0 / 2)?)?;
        let mut b = conv(&a, &second, s, p)?;
        if shortcut {
            b = (b + conv(&a, &parallel, s, p)?)?;
        }
        let b = act.apply(&b)?;
        let c = act.apply(&conv(&b, &alone, ds, dp)?)?;
        let column = |t: &Tensor| t.reshape((1, t.elem_count(), 1, 1));
        let d = act.apply(&c.broadcast_mul(&column(&norm.0)?)?.broadcast_add(&column(&norm.1)?)?)?;
        let Ok(e) = max_pool2d(&d, pool.0, pool.1, pool.2) else { continue };

        for kernels in kernels() {
            let make = |graph: &mut Graph, input| {
                let a = graph.conv(input, (&first.0, &first.1), (s0, k0 / 2), None, act)?;
                let added = match shortcut {
                    true => Some(graph.conv(a, (&parallel.0, &parallel.1), (s, p), None, Activation::Identity)?),
                    false => None,
                };
                let b = graph.conv(a, (&second.0, &second.1), (s, p), added, act)?;
                let c = graph.depthwise(b, (&alone.0, &alone.1), (ds, dp), act)?;
                let d = graph.scale_shift(c, (&norm.0, &norm.1), act)?;
                graph.max_pool(d, pool.0, pool.1, pool.2)
            };
            let whole = fused(kernels, &x, make, Graph::whole)?;
            assert_close(&case, kernels, &whole.forward(&x)?, &e)?;
            let average = fused(kernels, &x, make, Graph::average)?;
            assert_close(&format!("mean {case}"), kernels, &average.forward(&x)?, &e.mean((2, 3))?)?;
        }
    }
    Ok(())
}

/// Rows of the widths that tiles divide, and of others, through an expansion and a depthwise convolution.
#[test]
fn rows_of_every_width_agree_with_candle() -> Result<()> {
    let numbers = &mut TestTensors::new(9);
    let windows = [(3, 1), (3, 2), (5, 1), (5, 2)];
    for (width, (kernel, stride)) in [7, 8, 15, 16, 20, 28, 40, 64].into_iter().flat_map(|w| windows.map(|k| (w, k))) {
        let case = format!("{width} wide, depthwise {kernel}/{stride}");
        let x = numbers.between(-1.0, 1.0, (2, 3, 9, width * stride));
        let (first, wide) = (numbers.layer(20, 3, 1), numbers.layer(70, 20, 1));
        let alone = (numbers.layer(70, 1, kernel).0, numbers.between(-0.5, 0.5, 70));
        let act = Activation::Relu6;
        let expanded = act.apply(&conv(&act.apply(&conv(&x, &first, 1, 0)?)?, &wide, 1, 0)?)?;
        let want = act.apply(&conv(&expanded, &alone, stride, kernel / 2)?)?;
        assert_eq!(want.dim(3)?, width, "{case}");
        for kernels in kernels() {
            let make = |graph: &mut Graph, input| {
                let a = graph.conv(input, (&first.0, &first.1), (1, 0), None, act)?;
                let b = graph.conv(a, (&wide.0, &wide.1), (1, 0), None, act)?;
                graph.depthwise(b, (&alone.0, &alone.1), (stride, kernel / 2), act)
            };
            assert_close(&case, kernels, &fused(kernels, &x, make, Graph::whole)?.forward(&x)?, &want)?;
        }
    }
    Ok(())
}

/// Sums that are cut into pieces, blocks in groups of four, many pictures in one task, and convolutions in tiles, the last
/// of which extend beyond the picture.
#[test]
fn large_layers_agree_with_candle() -> Result<()> {
    let numbers = &mut TestTensors::new(8);
    for (n, side, inputs, outputs, k, s) in [
        (2, 7, 512, 80, 3, 1),
        (1, 14, 600, 70, 3, 2),
        (5, 7, 1100, 130, 1, 1),
        (1, 30, 260, 33, 3, 1),
        (2, 13, 40, 50, 3, 1),
        (1, 27, 64, 80, 3, 1),
    ] {
        let case = format!("{n} of {side}x{side}, {inputs} to {outputs}, {k}/{s}");
        let x = numbers.between(-1.0, 1.0, (n, 3, side, side));
        let (first, second) = (numbers.layer(inputs, 3, 1), numbers.layer(outputs, inputs, k));
        let a = conv(&x, &first, 1, 0)?;
        let want = conv(&a, &second, s, k / 2)?.relu()?;
        for kernels in kernels() {
            let make = |graph: &mut Graph, input| {
                let a = graph.conv(input, (&first.0, &first.1), (1, 0), None, Activation::Identity)?;
                graph.conv(a, (&second.0, &second.1), (s, k / 2), None, Activation::Relu)
            };
            let got = fused(kernels, &x, make, Graph::whole)?.forward(&x)?;
            assert_close(&case, kernels, &got, &want)?;
        }
    }
    Ok(())
}

/// A picture gives the same bits alone, in a batch and with any number of threads, call after call.
#[test]
fn batch_and_threads_change_no_bit() -> Result<()> {
    let numbers = &mut TestTensors::new(9);
    let x = numbers.between(-1.0, 1.0, (11, 3, 37, 41));
    let layers = [numbers.layer(24, 3, 3), numbers.layer(150, 24, 3), numbers.layer(70, 150, 1)];
    for kernels in kernels() {
        let make = |graph: &mut Graph, input| {
            layers.iter().try_fold(input, |y, (weight, bias)| {
                graph.conv(y, (weight, bias), (1, weight.dim(2)? / 2), None, Activation::Relu6)
            })
        };
        let fused = fused(kernels, &x, make, Graph::average)?;
        let alone: Vec<Vec<f32>> =
            (0..11).map(|i| fused.forward(&x.narrow(0, i, 1)?)?.flatten_all()?.to_vec1()).collect::<Result<_>>()?;
        for threads in [1, 2, 3, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            for _ in 0..2 {
                let together = pool.install(|| fused.forward(&x))?.to_vec2::<f32>()?;
                assert_eq!(together, alone, "{kernels:?} with {threads} threads");
            }
        }
    }
    Ok(())
}

/// NaN is passed on and not clamped. Bytes cannot represent it.
#[test]
fn nan_is_passed_on() -> Result<()> {
    let x = Tensor::full(f32::NAN, (1, 3, 8, 8), &Device::Cpu)?;
    let (weight, bias) = TestTensors::new(1).layer(4, 3, 3);
    for kernels in kernels().filter(|kernels| kernels.1 != Precision::Int8) {
        for activation in [Activation::Identity, Activation::Relu, Activation::Relu6] {
            let again = (weight.repeat((1, 2, 1, 1))?.narrow(1, 0, 4)?, bias.clone());
            let make = |graph: &mut Graph, input| {
                let y = graph.conv(input, (&weight, &bias), (1, 1), None, activation)?;
                graph.conv(y, (&again.0, &again.1), (1, 1), None, activation)
            };
            let got = fused(kernels, &x, make, Graph::average)?.forward(&x)?.flatten_all()?.to_vec1::<f32>()?;
            assert!(got.iter().all(|v| v.is_nan()), "{kernels:?} {activation:?}: {got:?}");
        }
    }
    Ok(())
}

#[test]
fn inputs_that_do_not_fit_are_errors() -> Result<()> {
    let cpu = &Device::Cpu;
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, cpu);
    let (mut graph, input) = Graph::new(Level::Portable, Arithmetic::F32, 3)?;
    let bias = zeros(&[4])?;
    let act = Activation::Relu;
    assert!(graph.conv(input, (&zeros(&[4, 2, 3, 3])?, &bias), (1, 1), None, act).is_err());
    assert!(graph.conv(input, (&zeros(&[4, 3, 3, 3])?, &bias), (3, 1), None, act).is_err());
    assert!(graph.conv(input, (&zeros(&[5, 3, 3, 3])?, &bias), (1, 1), None, act).is_err());
    assert!(graph.conv(input, (&zeros(&[4, 3, 3, 1])?, &bias), (1, 1), None, act).is_err());
    assert!(graph.depthwise(input, (&zeros(&[3, 1, 3, 3])?, &bias), (1, 1), act).is_err());
    assert!(graph.max_pool(input, 3, 2, 1).is_err());
    let y = graph.conv(input, (&zeros(&[4, 3, 3, 3])?, &bias), (1, 1), None, act)?;
    let small = graph.conv(y, (&zeros(&[4, 4, 3, 3])?, &bias), (2, 1), None, act)?;
    assert!(Fused::new(graph.clone()).forward(&zeros(&[1, 3, 8, 8])?).is_err(), "the graph has no end");
    // A shortcut of another size is found when the size is known.
    let sum = graph.conv(y, (&zeros(&[4, 4, 3, 3])?, &bias), (1, 1), Some(small), act)?;
    let fused = Fused::new(graph.average(sum)?);
    assert!(fused.forward(&zeros(&[1, 3, 8, 8])?).is_err());
    assert!(fused.forward(&zeros(&[1, 4, 8, 8])?).is_err());
    Ok(())
}

#[test]
fn ranges_of_another_network_are_an_error() -> Result<()> {
    let numbers = &mut TestTensors::new(3);
    let (weight, bias) = numbers.layer(4, 3, 3);
    let x = numbers.between(-1.0, 1.0, (2, 3, 9, 9));
    let network = |arithmetic: Arithmetic<'_>| {
        let (mut graph, input) = Graph::new(Level::Portable, arithmetic, 3)?;
        let y = graph.conv(input, (&weight, &bias), (1, 1), None, Activation::Relu)?;
        Ok::<_, candle_core::Error>(Fused::new(graph.average(y)?))
    };
    let mut observed = Observed::default();
    assert!(observed.ranges().is_err(), "nothing was observed");
    let exact = network(Arithmetic::F32)?;
    exact.observe(&x, &mut observed)?;
    assert_eq!(observed.pictures(), 2);
    let ranges = observed.ranges()?;
    let bytes = network(Arithmetic::Int8(&ranges))?;
    assert!(bytes.observe(&x, &mut observed).is_err(), "an int8 network cannot be observed");
    assert!(network(Arithmetic::Int8(&ranges[..1])).is_err());
    let more = [&ranges[..], &ranges[..1]].concat();
    assert!(network(Arithmetic::Int8(&more)).is_err());
    let mut broken = ranges.clone();
    broken[1][2].high = f32::NAN;
    assert!(network(Arithmetic::Int8(&broken)).is_err());
    let nan = Tensor::full(f32::NAN, (1, 3, 9, 9), &Device::Cpu)?;
    exact.observe(&nan, &mut observed)?;
    assert!(observed.ranges().is_err(), "NaN has no range");
    Ok(())
}

/// Every level, in f32: hybrid networks have no other precision.
fn levels() -> impl Iterator<Item = TestKernels> {
    kernels().filter(|kernels| kernels.1 == Precision::F32)
}

/// GELU, squeeze and excite, depthwise convolutions with two outputs per channel, shortcuts of values with a border, norms over channels and
/// attention, at odd sizes and at those of MobileCLIP.
#[test]
fn hybrid_layers_agree_with_candle() -> Result<()> {
    let numbers = &mut TestTensors::new(11);
    for (n, h, w) in [(1, 64, 64), (2, 37, 41), (1, 32, 128), (3, 16, 9)] {
        let case = format!("{n} of {h}x{w}");
        let x = numbers.between(-1.0, 1.0, (n, 3, h, w));
        let first = numbers.layer(16, 3, 3);
        let twice = (numbers.layer(32, 1, 7).0, numbers.between(-0.5, 0.5, 32));
        let (squeeze, excite) = (numbers.layer(5, 32, 1), numbers.layer(32, 5, 1));
        let second = numbers.layer(64, 32, 1);
        let filter = (numbers.layer(64, 1, 7).0, numbers.between(-0.5, 0.5, 64));
        let (widen, narrow) = (numbers.layer(160, 64, 1), numbers.layer(64, 160, 1));
        let (qkv, out) = (numbers.layer(192, 64, 1), numbers.layer(64, 64, 1));

        let a = conv(&x, &first, 2, 1)?.gelu_erf()?;
        // Output channel c reads channel c modulo 16.
        let b = conv(&Tensor::cat(&[&a, &a], 1)?, &twice, 2, 3)?;
        let gate = conv(&conv(&b.mean_keepdim((2, 3))?, &squeeze, 1, 0)?.relu()?, &excite, 1, 0)?;
        let b = b.broadcast_mul(&candle_nn::ops::sigmoid(&gate)?)?.gelu_erf()?;
        let c = conv(&b, &second, 1, 0)?;
        let wide = conv(&conv(&c, &filter, 1, 3)?, &widen, 1, 0)?.gelu_erf()?;
        let d = (conv(&wide, &narrow, 1, 0)? + &c)?;
        let centred = d.broadcast_sub(&d.mean_keepdim(1)?)?;
        let normed = centred.broadcast_div(&(centred.sqr()?.mean_keepdim(1)? + 1e-5)?.sqrt()?)?;
        let (_, _, height, width) = d.dims4()?;
        // (N, 3, heads, width, pixels)
        let parts = (conv(&normed, &qkv, 1, 0)? * 3.0)?.reshape((n, 3, 2, 32, height * width))?;
        let part = |i: usize| parts.narrow(1, i, 1)?.squeeze(1)?.contiguous();
        let scores = (part(0)?.transpose(2, 3)?.contiguous()?.matmul(&part(1)?)? / 32f64.sqrt())?;
        let shares = candle_nn::ops::softmax_last_dim(&scores)?;
        let mixed = part(2)?.matmul(&shares.transpose(2, 3)?.contiguous()?)?.reshape((n, 64, height, width))?;
        let want = (conv(&mixed, &out, 1, 0)? + d)?;

        let qkv = ((&qkv.0 * 3.0)?, (&qkv.1 * 3.0)?);
        for kernels in levels() {
            let make = |graph: &mut Graph, input| {
                let plain = Activation::Identity;
                let a = graph.conv(input, (&first.0, &first.1), (2, 1), None, plain)?;
                let a = graph.gelu(a)?;
                let b = graph.depthwise_repeated(a, 2, (&twice.0, &twice.1), (2, 3))?;
                let b = graph.squeeze_excite(b, (&squeeze.0, &squeeze.1), (&excite.0, &excite.1))?;
                let b = graph.gelu(b)?;
                let c = graph.conv(b, (&second.0, &second.1), (1, 0), None, plain)?;
                let filtered = graph.depthwise(c, (&filter.0, &filter.1), (1, 3), plain)?;
                let wide = graph.conv(filtered, (&widen.0, &widen.1), (1, 0), None, plain)?;
                let wide = graph.gelu(wide)?;
                let d = graph.conv(wide, (&narrow.0, &narrow.1), (1, 0), Some(c), plain)?;
                let normed = graph.channel_norm(d, 1e-5)?;
                let qkv = graph.conv(normed, (&qkv.0, &qkv.1), (1, 0), None, plain)?;
                let mixed = graph.attention(qkv, (2, 32))?;
                graph.conv(mixed, (&out.0, &out.1), (1, 0), Some(d), plain)
            };
            let whole = fused(kernels, &x, make, Graph::whole)?;
            assert_close(&case, kernels, &whole.forward(&x)?, &want)?;
            let average = fused(kernels, &x, make, Graph::average)?;
            let together = average.forward(&x)?.to_vec2::<f32>()?;
            for (i, row) in together.iter().enumerate() {
                assert_eq!(&average.forward(&x.narrow(0, i, 1)?)?.to_vec2::<f32>()?[0], row, "bit for bit");
            }
        }
    }
    Ok(())
}

/// The polynomial, over all numbers that it is used for and beyond.
#[test]
fn gelu_is_exact_to_a_millionth() -> Result<()> {
    let values: Vec<f32> = (0..64 * 64).map(|i| (i as f32 / 2048.0 - 1.0) * 12.0).collect();
    let x = Tensor::from_vec(values, (1, 1, 64, 64), &Device::Cpu)?;
    let (weight, bias) =
        (Tensor::ones((1, 1, 1, 1), DType::F32, &Device::Cpu)?, Tensor::zeros(1, DType::F32, &Device::Cpu)?);
    for kernels in levels() {
        let make = |graph: &mut Graph, input| {
            let y = graph.conv(input, (&weight, &bias), (1, 0), None, Activation::Identity)?;
            graph.gelu(y)
        };
        let got = fused(kernels, &x, make, Graph::whole)?.forward(&x)?;
        let error = (got.to_dtype(DType::F64)? - x.to_dtype(DType::F64)?.gelu_erf()?)?.abs()?.max_all()?;
        let error = error.to_scalar::<f64>()?;
        assert!(error < 1e-6, "{kernels:?}: {error}");
        let nan = Tensor::full(f32::NAN, (1, 1, 8, 8), &Device::Cpu)?;
        let got = fused(kernels, &nan, make, Graph::average)?.forward(&nan)?.flatten_all()?.to_vec1::<f32>()?;
        assert!(got[0].is_nan(), "{kernels:?}");
    }
    Ok(())
}

#[test]
fn hybrid_layers_that_do_not_fit_are_errors() -> Result<()> {
    let numbers = &mut TestTensors::new(12);
    let (first, second) = (numbers.layer(48, 3, 1), numbers.layer(48, 48, 3));
    let (mut graph, input) = Graph::new(Level::Portable, Arithmetic::F32, 3)?;
    let plain = Activation::Identity;
    let x = graph.conv(input, (&first.0, &first.1), (1, 0), None, plain)?;
    assert!(graph.attention(x, (2, 16)).is_err(), "three times two heads of 16 are 96 channels");
    assert!(graph.attention(x, (2, 8)).is_err(), "heads are whole blocks");
    let squeeze = numbers.layer(5, 32, 1);
    assert!(graph.squeeze_excite(x, (&squeeze.0, &squeeze.1), (&squeeze.0, &squeeze.1)).is_err());
    assert!(graph.channel_norm(input, 1e-5).is_err());
    let y = graph.channel_norm(x, 1e-5)?;
    assert!(graph.gelu(x).is_err() && graph.gelu(y).is_err(), "neither is the output of a convolution just before");
    // The 3×3 convolution gives the input of the norm a border.
    graph.conv(x, (&second.0, &second.1), (1, 1), None, plain)?;
    let fused = Fused::new(graph.average(y)?);
    let error = fused.forward(&Tensor::zeros((1, 3, 8, 8), DType::F32, &Device::Cpu)?).expect_err("a border");
    assert!(error.to_string().contains("border"), "{error}");

    let (mut graph, input) = Graph::new(Level::Portable, Arithmetic::Bf16, 3)?;
    let x = graph.conv(input, (&first.0, &first.1), (1, 0), None, plain)?;
    assert!(graph.gelu(x).is_err() && graph.attention(x, (1, 16)).is_err(), "only in f32");
    Ok(())
}
