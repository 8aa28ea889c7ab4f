//! From the form for training to the one for inference: parallel branches become one convolution, and batch norms and layer scales become
//! part of the layers beside them. Names are those of `timm`, whose `reparameterize_model` does the first half of this.
//!
//! Sources: Ding et al., *RepVGG: Making VGG-style ConvNets Great Again*, CVPR 2021; FastViT (see the parent module).

use candle_core::{DType, Device, Tensor};

use super::{EPSILON, LayerTensors, PIXEL_NORM};
use crate::models::{Architecture, LoadError, Tensors};

/// The picture tower of MobileCLIP for inference.
#[derive(Clone, Debug)]
pub struct FoldedTower {
    /// Its tensors, as [`Network::load`](crate::models::Network::load) reads them.
    pub tensors: Tensors,
    /// The tensors that the tower does not have.
    pub rest: Tensors,
}

/// Folds the picture tower of MobileCLIP, a FastViT with the names of `timm`: one convolution takes the place of each block's branches, and norms
/// and layer scales become part of the layers beside them. What is folded already stays as it is. Sums are in `f64`.
///
/// # Errors
/// [`LoadError::Missing`] with the first tensor that is missing, [`LoadError::DType`], [`LoadError::Build`] when shapes do not fit.
pub fn fold_mobile_clip(state: Tensors) -> Result<FoldedTower, LoadError> {
    let mut fold = Fold { state, tensors: Tensors::new() };
    for part in ["stem.0", "stem.1", "stem.2"] {
        fold.convolution(part)?;
    }
    let mut stage = 0;
    while stage == 0 || fold.has(&format!("stages.{stage}.blocks.0.mlp.fc1.weight")) {
        fold.stage(&format!("stages.{stage}"))?;
        stage += 1;
    }
    fold.convolution("final_conv")?;
    fold.gate("final_conv")?;
    fold.keep("head.fc")?;
    Ok(FoldedTower { tensors: fold.tensors, rest: fold.state })
}

struct Fold {
    state: Tensors,
    tensors: Tensors,
}

/// Turns an error of candle into one of loading.
fn built<T>(result: candle_core::Result<T>) -> Result<T, LoadError> {
    result.map_err(|cause| LoadError::Build { architecture: Architecture::MobileClip, cause })
}

/// A vector as factors of the outputs of a weight.
fn of_outputs(factors: &Tensor, weight: &Tensor) -> candle_core::Result<Tensor> {
    let mut shape = vec![1; weight.rank()];
    shape[0] = factors.elem_count();
    weight.broadcast_mul(&factors.reshape(shape)?)
}

/// A kernel with zeros around it, `side` pixels wide.
fn widened(kernel: &Tensor, side: usize) -> candle_core::Result<Tensor> {
    let border = (side - kernel.dim(3)?) / 2;
    kernel.pad_with_zeros(2, border, border)?.pad_with_zeros(3, border, border)
}

/// The kernel of 1×1 pixel that changes nothing, with `inputs` channels per group.
fn identity(channels: usize, inputs: usize) -> candle_core::Result<Tensor> {
    let ones = (0..channels * inputs).map(|i| f64::from(u8::from(i / inputs % inputs == i % inputs))).collect();
    Tensor::from_vec(ones, (channels, inputs, 1, 1), &Device::Cpu)
}

impl Fold {
    fn has(&self, name: &str) -> bool {
        self.state.contains_key(name)
    }

    fn take(&mut self, name: &str) -> Result<Tensor, LoadError> {
        let Some(tensor) = self.state.remove(name) else {
            let (architecture, names) = (Architecture::MobileClip, vec![name.to_owned()]);
            return Err(LoadError::Missing { architecture, names, shapes: vec![Vec::new()] });
        };
        if !tensor.dtype().is_float() {
            return Err(LoadError::DType { name: name.to_owned(), have: tensor.dtype().as_str() });
        }
        built(tensor.to_dtype(DType::F64))
    }

    /// Weight and bias of a layer.
    fn layer(&mut self, name: &str) -> Result<LayerTensors, LoadError> {
        Ok((self.take(&format!("{name}.weight"))?, self.take(&format!("{name}.bias"))?))
    }

    fn put(&mut self, name: &str, (weight, bias): LayerTensors) -> Result<(), LoadError> {
        for (part, tensor) in [("weight", weight), ("bias", bias)] {
            self.tensors.insert(format!("{name}.{part}"), built(tensor.to_dtype(DType::F32))?);
        }
        Ok(())
    }

    /// A layer that stays as it is.
    fn keep(&mut self, name: &str) -> Result<(), LoadError> {
        let layer = self.layer(name)?;
        self.put(name, layer)
    }

    /// Squeeze and excite, if the layer has it.
    fn gate(&mut self, name: &str) -> Result<(), LoadError> {
        if self.has(&format!("{name}.se.fc1.weight")) {
            self.keep(&format!("{name}.se.fc1"))?;
            self.keep(&format!("{name}.se.fc2"))?;
        }
        Ok(())
    }

    /// A batch norm as scale and shift.
    fn norm(&mut self, name: &str) -> Result<LayerTensors, LoadError> {
        let (weight, bias) = self.layer(name)?;
        let mean = self.take(&format!("{name}.running_mean"))?;
        let variance = self.take(&format!("{name}.running_var"))?;
        let folded = || {
            let scale = (weight / (variance + EPSILON)?.sqrt()?)?;
            Ok((scale.clone(), (bias - (mean * scale)?)?))
        };
        built(folded())
    }

    /// A convolution and its batch norm.
    fn normed(&mut self, conv: &str, norm: &str) -> Result<LayerTensors, LoadError> {
        let weight = self.take(&format!("{conv}.weight"))?;
        let (scale, shift) = self.norm(norm)?;
        Ok((built(of_outputs(&scale, &weight))?, shift))
    }

    /// All branches at `at` as one convolution.
    fn branches(&mut self, at: &str) -> Result<LayerTensors, LoadError> {
        let whole = format!("{at}.reparam_conv");
        if self.has(&format!("{whole}.weight")) {
            return self.layer(&whole);
        }
        let mut branches = Vec::new();
        let numbered = (0..).map(|n| format!("conv_kxk.{n}"));
        let numbered: Vec<String> = numbered.take_while(|name| self.has(&format!("{at}.{name}.conv.weight"))).collect();
        let others = ["conv_scale", "large_conv", "small_conv"].map(str::to_owned);
        for branch in numbered.into_iter().chain(others).map(|name| format!("{at}.{name}")) {
            if self.has(&format!("{branch}.conv.weight")) {
                branches.push(self.normed(&format!("{branch}.conv"), &format!("{branch}.bn"))?);
            }
        }
        let same = format!("{at}.identity");
        if self.has(&format!("{same}.weight")) {
            let (scale, shift) = self.norm(&same)?;
            let inputs = branches.first().map_or(1, |(kernel, _): &LayerTensors| kernel.dims()[1]);
            let kernel = identity(scale.elem_count(), inputs).and_then(|kernel| of_outputs(&scale, &kernel));
            branches.push((built(kernel)?, shift));
        }
        let side = branches.iter().filter_map(|(kernel, _)| kernel.dims().last().copied()).max().unwrap_or(1);
        let sum = |one: LayerTensors, other: LayerTensors| -> candle_core::Result<LayerTensors> {
            Ok(((widened(&one.0, side)? + widened(&other.0, side)?)?, (one.1 + other.1)?))
        };
        let mut branches = branches.into_iter();
        // Without a branch, the missing tensor is reported.
        let Some(first) = branches.next() else { return self.layer(&whole) };
        branches.try_fold(first, |one, other| built(sum(one, other)))
    }

    fn convolution(&mut self, at: &str) -> Result<(), LoadError> {
        let layer = self.branches(at)?;
        self.put(&format!("{at}.reparam_conv"), layer)
    }

    fn stage(&mut self, at: &str) -> Result<(), LoadError> {
        let down = format!("{at}.downsample.proj");
        if ["reparam_conv", "large_conv.conv"].iter().any(|name| self.has(&format!("{down}.0.{name}.weight"))) {
            self.convolution(&format!("{down}.0"))?;
            self.gate(&format!("{down}.0"))?;
            self.convolution(&format!("{down}.1"))?;
        }
        let (positions, beside) = (format!("{at}.pos_emb"), format!("{at}.pos_emb.pos_enc"));
        if self.has(&format!("{beside}.weight")) {
            // A convolution beside a shortcut.
            let (weight, bias) = self.layer(&beside)?;
            let same = || widened(&identity(weight.dim(0)?, 1)?, weight.dim(3)?);
            let weight = built(same().and_then(|same| same + &weight))?;
            self.put(&format!("{positions}.reparam_conv"), (weight, bias))?;
        } else if self.has(&format!("{positions}.reparam_conv.weight")) {
            self.keep(&format!("{positions}.reparam_conv"))?;
        }
        let mut block = 0;
        while block == 0 || self.has(&format!("{at}.blocks.{block}.mlp.fc1.weight")) {
            self.block(&format!("{at}.blocks.{block}"))?;
            block += 1;
        }
        Ok(())
    }

    fn block(&mut self, at: &str) -> Result<(), LoadError> {
        let mixer = format!("{at}.token_mixer");
        let scale = if self.has(&format!("{mixer}.qkv.weight")) {
            self.attention(at)?;
            "layer_scale_2"
        } else {
            let layer = self.mixer(&mixer)?;
            self.put(&format!("{mixer}.reparam_conv"), layer)?;
            "layer_scale"
        };
        let conv = format!("{at}.mlp.conv");
        let filter = match self.has(&format!("{conv}.bn.weight")) {
            true => self.normed(&format!("{conv}.conv"), &format!("{conv}.bn"))?,
            false => self.layer(&format!("{conv}.conv"))?,
        };
        self.put(&format!("{conv}.conv"), filter)?;
        self.keep(&format!("{at}.mlp.fc1"))?;
        self.scaled(&format!("{at}.mlp.fc2"), &format!("{at}.{scale}.gamma"))
    }

    /// A layer times its layer scale, if there is one.
    fn scaled(&mut self, name: &str, scale: &str) -> Result<(), LoadError> {
        let (weight, bias) = self.layer(name)?;
        if !self.has(scale) {
            return self.put(name, (weight, bias));
        }
        let scale = built(self.take(scale)?.flatten_all())?;
        let layer = (built(of_outputs(&scale, &weight))?, built(bias * scale)?);
        self.put(name, layer)
    }

    /// RepMixer: `x + scale · (mixer(x) − norm(x))`.
    fn mixer(&mut self, at: &str) -> Result<LayerTensors, LoadError> {
        if self.has(&format!("{at}.reparam_conv.weight")) {
            return self.layer(&format!("{at}.reparam_conv"));
        }
        let (mixer, norm) = (self.branches(&format!("{at}.mixer"))?, self.branches(&format!("{at}.norm"))?);
        let gamma = format!("{at}.layer_scale.gamma");
        let scale = match self.has(&gamma) {
            true => self.take(&gamma)?,
            false => built(mixer.1.ones_like())?,
        };
        let folded = || {
            let (scale, side) = (scale.flatten_all()?, mixer.0.dim(3)?);
            let kernel = of_outputs(&scale, &(&mixer.0 - widened(&norm.0, side)?)?)?;
            let kernel = (kernel + widened(&identity(scale.elem_count(), 1)?, side)?)?;
            Ok((kernel, ((mixer.1 - norm.1)? * scale)?))
        };
        built(folded())
    }

    /// The norm becomes part of the layer after it. One over the channels of a pixel leaves the scaling of pixels.
    fn attention(&mut self, at: &str) -> Result<(), LoadError> {
        let norm = format!("{at}.norm");
        let norm = if self.has(&format!("{norm}.running_var")) {
            Some(self.norm(&norm)?)
        } else if self.has(&format!("{norm}.weight")) {
            let one = built(Tensor::new(&[1f32], &Device::Cpu))?;
            self.tensors.insert(PIXEL_NORM.to_owned(), one);
            Some(self.layer(&norm)?)
        } else {
            None
        };
        let qkv = format!("{at}.token_mixer.qkv");
        let weight = self.take(&format!("{qkv}.weight"))?;
        let bias = match self.has(&format!("{qkv}.bias")) {
            true => self.take(&format!("{qkv}.bias"))?,
            false => built(weight.dim(0).and_then(|n| Tensor::zeros(n, DType::F64, &Device::Cpu)))?,
        };
        let folded = || match norm {
            Some((scale, shift)) => {
                let shift = weight.matmul(&shift.unsqueeze(1)?)?.squeeze(1)?;
                Ok((weight.broadcast_mul(&scale)?, (bias + shift)?))
            }
            None => Ok((weight, bias)),
        };
        let layer = built(folded())?;
        self.put(&qkv, layer)?;
        self.scaled(&format!("{at}.token_mixer.proj"), &format!("{at}.layer_scale_1.gamma"))
    }
}
