use candle_core::{DType, Device, Result, Tensor, Var};

use super::*;
use crate::nn::fused::{Level, Precision};
use crate::nn::test_tensors::TestTensors;
use crate::nn::{Activation, Padding, depthwise_conv2d, max_pool2d, unfold};

const EPSILON: f64 = 1e-5;

/// An operation of a small network.
#[derive(Clone, Copy, Debug)]
enum Op {
    /// Outputs, kernel, stride.
    Conv(usize, usize, usize),
    /// Kernel, stride.
    Depthwise(usize, usize),
    Norm(Activation),
    MaxPool,
    /// Remembers the batch for [`Op::Add`].
    Fork,
    Add(Activation),
    /// Convolves and normalises the remembered batch: outputs, stride.
    Project(usize, usize),
}

use Op::{Add, Conv, Depthwise, Fork, MaxPool, Norm, Project};

const IDENTITY: Op = Norm(Activation::Identity);
const RELU: Op = Norm(Activation::Relu);
const RELU6: Op = Norm(Activation::Relu6);

/// The parameters of an operation.
fn parameters(op: Op, channels: usize, numbers: &mut TestTensors) -> Result<(Vec<Var>, usize)> {
    let mut norm = |c: usize| -> Result<[Var; 2]> {
        Ok([Var::from_tensor(&numbers.between(0.5, 2.0, c))?, Var::from_tensor(&numbers.between(-0.5, 1.5, c))?])
    };
    Ok(match op {
        Conv(outputs, kernel, _) => (vec![Var::from_tensor(&numbers.layer(outputs, channels, kernel).0)?], outputs),
        Depthwise(kernel, _) => {
            let weight = numbers.between(-0.5, 0.5, (channels, 1, kernel, kernel));
            (vec![Var::from_tensor(&weight)?], channels)
        }
        Norm(_) => (norm(channels)?.to_vec(), channels),
        Project(outputs, _) => {
            let [weight, bias] = norm(outputs)?;
            (vec![Var::from_tensor(&numbers.layer(outputs, channels, 1).0)?, weight, bias], outputs)
        }
        MaxPool | Fork | Add(_) => (Vec::new(), channels),
    })
}

/// A network of operations with its parameters.
struct Small {
    ops: Vec<(Op, Vec<Var>)>,
    padding: Padding,
}

impl Small {
    fn new(ops: &[Op], channels: usize, padding: Padding, numbers: &mut TestTensors) -> Result<Self> {
        let (mut channels, mut forked, mut all) = (channels, channels, Vec::new());
        for op in ops {
            let from = if matches!(op, Project(..)) { forked } else { channels };
            let (vars, outputs) = parameters(*op, from, numbers)?;
            if matches!(op, Fork) {
                forked = channels;
            }
            if !matches!(op, Project(..)) {
                channels = outputs;
            }
            all.push((*op, vars));
        }
        Ok(Self { ops: all, padding })
    }

    fn vars(&self) -> impl Iterator<Item = &Var> {
        self.ops.iter().flat_map(|(_, vars)| vars)
    }

    /// Runs the network on a tape.
    fn run(&self, tape: &mut Tape, x: &Tensor, thin: bool) -> Result<Batch> {
        let mut x = tape.input(x, thin)?;
        let mut forked = x.clone();
        for (i, (op, vars)) in self.ops.iter().enumerate() {
            // Half of the norms find the statistics that the operation before them computed.
            let wanted = matches!(self.ops.get(i + 1), Some((Norm(_), _))) && i % 4 < 3;
            let centre = |channels: usize| wanted.then(|| vec![0.1; channels]);
            let norm = |tape: &mut Tape, x: &Batch, vars: &[Var], activation| {
                let [weight, bias] = vars else { panic!("a norm has two parameters") };
                Ok::<_, candle_core::Error>(
                    tape.norm(x, NormParameters { weight, bias, epsilon: EPSILON, activation })?.0,
                )
            };
            x = match *op {
                Conv(outputs, _, stride) => {
                    tape.conv(&x, &vars[0], stride, self.padding, centre(outputs).as_deref())?
                }
                Depthwise(_, stride) => {
                    let centre = centre(vars[0].dim(0)?);
                    tape.depthwise(&x, &vars[0], stride, self.padding, centre.as_deref())?
                }
                Norm(activation) => norm(tape, &x, vars, activation)?,
                MaxPool => tape.max_pool(&x)?,
                Fork => {
                    forked = x.clone();
                    x
                }
                Add(activation) => tape.add(&x, &forked, activation)?,
                Project(_, stride) => {
                    let y = tape.conv(&forked, &vars[0], stride, self.padding, None)?;
                    forked = norm(tape, &y, &vars[1..], Activation::Identity)?;
                    x
                }
            };
        }
        Ok(x)
    }

    /// Runs the network with ops of candle's autograd on (N, C, H, W).
    fn reference(&self, x: &Tensor) -> Result<Tensor> {
        let conv = |x: &Tensor, weight: &Tensor, stride: usize| -> Result<Tensor> {
            let kernel = self.padding.kernel(weight, stride)?;
            let (outputs, inputs, k, _) = kernel.dims4()?;
            let (n, _, h, w) = x.dims4()?;
            let columns = unfold(x, k, stride, k / 2)?;
            let rows = kernel.reshape((1, outputs, inputs * k * k))?.broadcast_as((n, outputs, inputs * k * k))?;
            rows.contiguous()?.matmul(&columns)?.reshape((n, outputs, h.div_ceil(stride), w.div_ceil(stride)))
        };
        let norm = |x: &Tensor, vars: &[Var], activation: Activation| -> Result<Tensor> {
            let c = x.dim(1)?;
            let flat = x.transpose(0, 1)?.contiguous()?.reshape((c, ()))?;
            let mean = flat.mean_keepdim(1)?.reshape((1, c, 1, 1))?;
            let centred = x.broadcast_sub(&mean)?;
            let flat = centred.sqr()?.transpose(0, 1)?.contiguous()?.reshape((c, ()))?;
            let deviation = (flat.mean_keepdim(1)? + EPSILON)?.sqrt()?.reshape((1, c, 1, 1))?;
            let y = centred.broadcast_div(&deviation)?;
            let y = y.broadcast_mul(&vars[0].reshape((1, c, 1, 1))?)?.broadcast_add(&vars[1].reshape((1, c, 1, 1))?)?;
            activation.apply(&y)
        };
        let mut x = x.clone();
        let mut forked = x.clone();
        for (op, vars) in &self.ops {
            x = match *op {
                Conv(_, _, stride) => conv(&x, &vars[0], stride)?,
                Depthwise(_, stride) => {
                    let kernel = self.padding.kernel(&vars[0], stride)?;
                    depthwise_conv2d(&x, &kernel, stride, Padding::of(&kernel))?
                }
                Norm(activation) => norm(&x, vars, activation)?,
                MaxPool => max_pool2d(&x, 3, 2, 1)?,
                Fork => {
                    forked = x.clone();
                    x
                }
                Add(activation) => activation.apply(&(x + &forked)?)?,
                Project(_, stride) => {
                    forked = norm(&conv(&forked, &vars[0], stride)?, &vars[1..], Activation::Identity)?;
                    x
                }
            };
        }
        Ok(x)
    }
}

fn length(x: &Tensor) -> Result<f64> {
    Ok(f64::from(x.sqr()?.sum_all()?.to_scalar::<f32>()?).sqrt())
}

/// Length of the difference of two tensors, as a share of the length of the second, or of `least` if that is longer.
fn difference(got: &Tensor, want: &Tensor, least: f64) -> Result<f64> {
    assert_eq!(got.dims(), want.dims());
    Ok(length(&(got - want)?)? / length(want)?.max(least))
}

/// Engines for `f32` with all instructions that this processor has.
fn exact_engines() -> Vec<Engine> {
    let there = Level::ALL.into_iter().filter(|level| level.is_there());
    there.map(|level| Engine::with_level(level, Precision::F32)).collect()
}

/// Engines for bf16, plain and with the best instructions.
fn bf16_engines() -> Vec<Engine> {
    vec![Engine::with_level(Level::Portable, Precision::Bf16), Engine::new(Precision::Bf16)]
}

/// Inverted residuals, with pixels and channels that fill no tile, no block and no vector, and a first layer of three channels.
const MOBILE: &[Op] = &[
    Conv(20, 3, 2),
    RELU6,
    Depthwise(3, 1),
    RELU6,
    Conv(12, 1, 1),
    IDENTITY,
    Conv(72, 1, 1),
    RELU6,
    Depthwise(3, 2),
    RELU6,
    Conv(24, 1, 1),
    IDENTITY,
    Fork,
    Conv(150, 1, 1),
    RELU6,
    Depthwise(5, 1),
    RELU6,
    Conv(24, 1, 1),
    IDENTITY,
    Add(Activation::Identity),
    Fork,
    Conv(40, 1, 1),
    RELU6,
    Depthwise(3, 1),
    RELU6,
    Conv(24, 1, 1),
    IDENTITY,
    Add(Activation::Identity),
    Conv(70, 1, 1),
    RELU6,
];

/// Bottlenecks with projections.
const RESIDUAL: &[Op] = &[
    Conv(18, 7, 2),
    RELU,
    MaxPool,
    Fork,
    Conv(8, 1, 1),
    RELU,
    Conv(9, 3, 1),
    RELU,
    Conv(36, 1, 1),
    IDENTITY,
    Project(36, 1),
    Add(Activation::Relu),
    Fork,
    Conv(8, 1, 1),
    RELU,
    Conv(9, 3, 1),
    RELU,
    Conv(36, 1, 1),
    IDENTITY,
    Add(Activation::Relu),
    Fork,
    Conv(12, 1, 1),
    RELU,
    Conv(17, 3, 2),
    RELU,
    Conv(50, 1, 1),
    IDENTITY,
    Project(50, 2),
    Add(Activation::Relu),
];

/// Bottlenecks with norm and activation first, and a norm on the input.
const BEFORE: &[Op] = &[
    IDENTITY,
    Conv(16, 3, 2),
    RELU,
    MaxPool,
    Conv(20, 1, 1),
    Fork,
    RELU,
    Conv(8, 1, 1),
    RELU,
    Conv(8, 3, 1),
    RELU,
    Conv(20, 1, 1),
    Add(Activation::Identity),
    Fork,
    RELU,
    Conv(8, 1, 1),
    RELU,
    Conv(8, 3, 1),
    RELU,
    Conv(20, 1, 1),
    Add(Activation::Identity),
    RELU,
];

/// Short networks of all operations. In deep ones the rounding of bf16 adds up, and before a maximum it changes which value is the
/// largest.
const SHORT: [&[Op]; 5] = [
    &[Conv(20, 3, 2), RELU6, Depthwise(3, 1), IDENTITY, Conv(12, 1, 1)],
    &[Conv(18, 7, 2), RELU, Conv(9, 3, 2)],
    &[MaxPool, Conv(9, 3, 2)],
    &[IDENTITY, Conv(16, 3, 1), Fork, RELU, Conv(16, 1, 1), Add(Activation::Identity)],
    &[Conv(40, 1, 1), IDENTITY, Fork, Depthwise(5, 2), IDENTITY, Project(40, 2), Add(Activation::Relu)],
];

/// Compares values, averages and the gradients of all parameters with candle's autograd. Returns the largest difference of a
/// gradient.
fn compare(
    ops: &[Op],
    size: (usize, usize, usize, usize),
    padding: Padding,
    engines: &[Engine],
    tolerance: f64,
) -> Result<f64> {
    let numbers = &mut TestTensors::new(40);
    let net = Small::new(ops, size.1, padding, numbers)?;
    let x = numbers.unit(size);
    let want = net.reference(&x)?;
    let averages = want.flatten_from(2)?.mean(2)?;
    let upstream = numbers.unit(averages.shape());
    let want_grads = (&averages * &upstream)?.sum_all()?.backward()?;
    // The gradient of a bias before another norm is 0; the computed value is rounding noise.
    let mut least = 0f64;
    for var in net.vars() {
        least = least.max(0.05 * length(want_grads.get(var).expect("a gradient"))?);
    }
    let x = x.transpose(0, 1)?.contiguous()?;
    let thin = matches!(ops[0], Conv(..));
    let mut worst = 0f64;
    for engine in engines {
        let case = format!("{ops:?} {size:?} {:?} {:?}", engine.level, engine.precision);
        let mut tape = Tape::new(engine, true);
        let last = net.run(&mut tape, &x, thin)?;
        let close = |got: &Tensor, want: &Tensor, least: f64, what: &str| -> Result<f64> {
            let error = difference(got, want, least)?;
            assert!(error < tolerance, "{case}: {what} differs by {error:.1e}");
            Ok(error)
        };
        close(&tape.tensor(&last)?.transpose(0, 1)?.contiguous()?, &want.detach(), 0.0, "the result")?;
        close(&tape.average(&last)?, &averages.detach(), 0.0, "the average")?;
        let mut grads = Var::zeros(1, DType::F32, &Device::Cpu)?.sum_all()?.backward()?;
        tape.backward(&last, &upstream, &mut grads)?;
        for (i, var) in net.vars().enumerate() {
            let (got, want) = (grads.get(var).expect("a gradient"), want_grads.get(var).expect("a gradient"));
            worst = worst.max(close(got, want, least, &format!("gradient {i}, {:?}", var.dims()))?);
        }
    }
    Ok(worst)
}

#[test]
fn values_and_gradients_agree_with_autograd() -> Result<()> {
    let mut worst = 0f64;
    for (ops, size, padding) in [
        (MOBILE, (3, 3, 21, 18), Padding::Symmetric),
        (MOBILE, (9, 3, 32, 30), Padding::Same),
        (RESIDUAL, (2, 3, 33, 38), Padding::Symmetric),
        (RESIDUAL, (9, 3, 17, 35), Padding::Symmetric),
        (BEFORE, (3, 3, 19, 24), Padding::Symmetric),
        (SHORT[4], (3, 3, 12, 11), Padding::Symmetric),
    ] {
        worst = worst.max(compare(ops, size, padding, &exact_engines(), 1e-3)?);
    }
    println!("gradients differ by at most {worst:.1e}");
    Ok(())
}

/// A value near a bound of its activation may be rounded to the other side, which changes the gradient of a whole pixel.
#[test]
fn bf16_is_near_f32() -> Result<()> {
    let mut worst = 0f64;
    for ops in SHORT {
        // A kernel of 1 with a stride has no other padding.
        let projects = ops.iter().any(|op| matches!(op, Project(..)));
        let padding = if projects { Padding::Symmetric } else { Padding::Same };
        for (size, padding) in [((9, 3, 23, 18), Padding::Symmetric), ((2, 3, 32, 38), padding)] {
            worst = worst.max(compare(ops, size, padding, &bf16_engines(), 0.2)?);
        }
    }
    println!("gradients differ by at most {worst:.1e}");
    Ok(())
}

/// Along the gradient of a parameter, the loss rises by the length of the gradient. The network has no activation, so that the
/// loss is smooth.
#[test]
fn gradients_are_finite_differences() -> Result<()> {
    let numbers = &mut TestTensors::new(41);
    let ops = [
        Conv(12, 3, 2),
        IDENTITY,
        Depthwise(3, 1),
        IDENTITY,
        Fork,
        Conv(33, 1, 1),
        IDENTITY,
        Conv(12, 3, 1),
        IDENTITY,
        Add(Activation::Identity),
        Depthwise(5, 2),
        IDENTITY,
        Conv(19, 1, 2),
        IDENTITY,
    ];
    let net = Small::new(&ops, 3, Padding::Symmetric, numbers)?;
    let x = numbers.unit((3, 5, 29, 26));
    let engine = Engine::new(Precision::F32);
    // Squares of the result: the averages alone are constant, because the last layer is a norm.
    let forward = || -> Result<(Tape, Batch, Tensor)> {
        let mut tape = Tape::new(&engine, true);
        let last = net.run(&mut tape, &x, true)?;
        let averages = tape.average(&last)?;
        Ok((tape, last, averages))
    };
    let loss = || -> Result<f64> { Ok(f64::from(forward()?.2.sqr()?.sum_all()?.to_scalar::<f32>()?)) };
    let (tape, last, averages) = forward()?;
    let mut grads = Var::zeros(1, DType::F32, &Device::Cpu)?.sum_all()?.backward()?;
    tape.backward(&last, &(averages * 2.0)?, &mut grads)?;
    let mut checked = 0;
    for var in net.vars() {
        let grad = grads.get(var).expect("a gradient").clone();
        let length = f64::from(grad.sqr()?.sum_all()?.to_scalar::<f32>()?).sqrt();
        let at = var.as_detached_tensor().copy()?;
        let size = f64::from(at.sqr()?.sum_all()?.to_scalar::<f32>()?).sqrt();
        // A bias or weight before another norm has no effect.
        if length < 1e-2 {
            continue;
        }
        let step = 0.01 * size;
        let moved = |by: f64| -> Result<f64> {
            var.set(&(&at + (&grad * (by / length))?)?)?;
            loss()
        };
        let slope = (moved(step)? - moved(-step)?) / (2.0 * step);
        var.set(&at)?;
        assert!((slope - length).abs() < 0.02 * length, "{:?}: {slope} is not {length}", var.dims());
        checked += 1;
    }
    assert!(checked >= 6, "only {checked} parameters have gradients");
    Ok(())
}

/// Statistics, fixed norms, a pass that does not record, and a repetition with memory that is used again.
#[test]
fn a_pass_repeats_exactly_and_fixed_norms_need_no_statistics() -> Result<()> {
    let numbers = &mut TestTensors::new(42);
    let net = Small::new(MOBILE, 3, Padding::Symmetric, numbers)?;
    let x = numbers.unit((3, 2, 23, 20));
    for precision in [Precision::F32, Precision::Bf16] {
        let engine = Engine::new(precision);
        let mut first: Option<Vec<Tensor>> = None;
        for threads in [1, 2, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            let grads: Vec<Tensor> = pool.install(|| -> Result<Vec<Tensor>> {
                let mut tape = Tape::new(&engine, true);
                let last = net.run(&mut tape, &x, true)?;
                let averages = tape.average(&last)?;
                let mut grads = Var::zeros(1, DType::F32, &Device::Cpu)?.sum_all()?.backward()?;
                tape.backward(&last, &averages, &mut grads)?;
                Ok(net.vars().map(|var| grads.get(var).expect("a gradient").clone()).collect())
            })?;
            let first = first.get_or_insert_with(|| grads.clone());
            for (a, b) in grads.iter().zip(first.iter()) {
                assert_eq!(a.flatten_all()?.to_vec1::<f32>()?, b.flatten_all()?.to_vec1::<f32>()?, "{threads} threads");
            }
        }
    }
    let engine = Engine::new(Precision::F32);
    let mut tape = Tape::new(&engine, false);
    let y = numbers.unit((5, 2, 3, 4));
    let batch = tape.input(&y, false)?;
    let statistics = tape.statistics(&batch);
    let rows = y.reshape((5, 24))?;
    let means = rows.mean(1)?.to_vec1::<f32>()?;
    let variances = rows.broadcast_sub(&rows.mean_keepdim(1)?)?.sqr()?.mean(1)?.to_vec1::<f32>()?;
    assert_eq!(statistics.count, 24);
    for i in 0..5 {
        assert!((statistics.mean[i] - means[i]).abs() < 1e-5 && (statistics.variance[i] - variances[i]).abs() < 1e-5);
    }
    let scaled = tape.fixed_norm(&batch, &[2.0; 5], &[0.5; 5], Activation::Relu)?;
    let want = y.affine(2.0, 0.5)?.relu()?;
    assert!(difference(&tape.tensor(&scaled)?, &want, 0.0)? < 1e-6);
    let grad = tape.average(&scaled)?;
    let mut grads = Var::zeros(1, DType::F32, &Device::Cpu)?.sum_all()?.backward()?;
    let error = tape.backward(&scaled, &grad, &mut grads).unwrap_err().to_string();
    assert!(error.contains("not recorded"), "{error}");
    Ok(())
}

#[test]
fn shapes_that_do_not_fit_are_errors() -> Result<()> {
    let mut tape = Tape::new(&Engine::new(Precision::F32), true);
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu);
    let var = |shape: &[usize]| Var::from_tensor(&zeros(shape)?);
    assert!(tape.input(&zeros(&[4, 1, 2, 2])?, true).is_err(), "a thin batch has up to three channels");
    assert!(tape.input(&zeros(&[4, 0, 2, 2])?, false).is_err(), "empty");
    assert!(tape.input(&zeros(&[4, 1, 2, 3])?.t()?, false).is_err(), "not contiguous");
    let x = tape.input(&zeros(&[4, 1, 5, 5])?, false)?;
    assert!(tape.conv(&x, &var(&[2, 3, 1, 1])?, 1, Padding::Symmetric, None).is_err(), "channels");
    assert!(tape.conv(&x, &var(&[2, 4, 2, 2])?, 1, Padding::Symmetric, None).is_err(), "an even kernel");
    assert!(tape.conv(&x, &var(&[2, 4, 3, 3])?, 0, Padding::Symmetric, None).is_err(), "stride 0");
    assert!(tape.depthwise(&x, &var(&[3, 1, 3, 3])?, 1, Padding::Symmetric, None).is_err(), "channels");
    let other = tape.input(&zeros(&[4, 1, 5, 4])?, false)?;
    assert!(tape.add(&x, &other, Activation::Relu).is_err(), "sizes");
    let (weight, bias) = (var(&[4])?, var(&[4])?);
    let norm = NormParameters { weight: &weight, bias: &bias, epsilon: EPSILON, activation: Activation::Relu };
    let (y, _) = tape.norm(&x, norm)?;
    assert!(tape.norm(&y, norm).is_err(), "two norms");
    let mut grads = weight.sum_all()?.backward()?;
    assert!(tape.backward(&y, &zeros(&[1, 3])?, &mut grads).is_err(), "a gradient of other channels");
    Ok(())
}
