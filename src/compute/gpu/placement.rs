//! Which device was asked for.

use std::fmt;
use std::str::FromStr;

use super::ElementType;

/// Where the networks of a pack are to compute. A setting of the program, not of the pack's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The device.
    pub requested: DeviceChoice,
    /// Element type on a GPU; the precision on the CPU is [`Pack::precision`](crate::models::pack::Pack::precision).
    pub numbers: ElementType,
}

impl Placement {
    /// The CPU.
    pub const CPU: Placement = Placement { requested: DeviceChoice::Cpu, numbers: ElementType::F16 };
}

/// The value of `--device`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// All GPUs, or the CPU where no GPU can be used.
    Auto,
    /// The CPU.
    Cpu,
    /// These GPUs, by the driver's numbers, each once.
    Cuda(Vec<usize>),
}

/// The most GPUs that one program uses.
const GPUS_MAX: usize = 16;

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a device: give auto, cpu, cuda:0 or, for several, cuda:0,1");
        match text {
            "auto" => return Ok(DeviceChoice::Auto),
            "cpu" => return Ok(DeviceChoice::Cpu),
            "cuda" => return Ok(DeviceChoice::Cuda(vec![0])),
            _ => {}
        }
        let numbers = text.strip_prefix("cuda:").ok_or_else(wrong)?;
        let mut devices = Vec::new();
        for number in numbers.split(',') {
            let number: usize = number.parse().map_err(|_| wrong())?;
            if devices.contains(&number) || devices.len() == GPUS_MAX || number > 255 {
                return Err(wrong());
            }
            devices.push(number);
        }
        Ok(DeviceChoice::Cuda(devices))
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Cuda(devices) => {
                let numbers: Vec<String> = devices.iter().map(usize::to_string).collect();
                write!(f, "cuda:{}", numbers.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_parsed_and_displayed_alike() {
        for (text, requested) in [
            ("auto", DeviceChoice::Auto),
            ("cpu", DeviceChoice::Cpu),
            ("cuda:0", DeviceChoice::Cuda(vec![0])),
            ("cuda:3,1", DeviceChoice::Cuda(vec![3, 1])),
        ] {
            assert_eq!((text.parse(), requested.to_string()), (Ok(requested), text.to_owned()));
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(vec![0])));
        for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "cuda:0,0", "cuda:0,", "cuda:256", "CUDA:0"] {
            let error = text.parse::<DeviceChoice>().unwrap_err();
            assert!(error.contains("cuda:0") && !error.contains('\n'), "{text}: {error}");
        }
    }
}
