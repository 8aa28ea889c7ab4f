//! A launcher that runs kernels on the processor, in a small C++ program that is built from their sources and receives commands
//! over a pipe.

use std::cell::RefCell;
use std::fs;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::rc::Rc;
use std::sync::OnceLock;

use touchline_compute::gpu::launch::{Argument, Launcher, Pointer, Shape};
use touchline_compute::gpu::{GpuError, PRELUDE};
use touchline_compute::{features, nn};

/// The C++ compiler of the machine, or the one in CXX.
fn compiler() -> String {
    std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned())
}

/// Builds the program once per test run.
///
/// # Panics
/// If there is no C++ compiler, or if it rejects the kernels. The tests are not skipped, because parity would be unproven.
fn program() -> &'static Path {
    // A failure is kept, so that the next test does not try again.
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = PROGRAM.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cuda_kernels-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder for the program");
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/cuda_kernels");
        // One namespace each, because on a device they are separate modules and may use the same name.
        let sources = [("features", features::cuda::SOURCES.concat()), ("layers", nn::cuda::SOURCES.concat())];
        let mut kernels = PRELUDE.to_owned();
        for (name, source) in sources {
            kernels.push_str(&format!("\nnamespace {name} {{\n{source}\n}}\n"));
        }
        let names = |kernels: &[&str], space: &str| -> String {
            kernels.iter().map(|k| format!("{{\"{k}\", callable({space}::{k})}},\n")).collect()
        };
        let names = names(&features::cuda::KERNELS, "features") + &names(&nn::cuda::KERNELS, "layers");
        fs::write(folder.join("kernels.h"), kernels).expect("the kernels are written");
        fs::write(folder.join("names.h"), names).expect("the names are written");
        let program = folder.join("driver");
        let out = Command::new(compiler())
            .args(["-std=c++17", "-O2", "-Wall", "-Werror", "-Wno-unknown-pragmas", "-pthread", "-I"])
            .arg(&folder)
            .arg("-I")
            .arg(&own)
            .arg(own.join("driver.cpp"))
            .arg("-o")
            .arg(&program)
            .args(std::env::var("TOUCHLINE_KERNEL_FLAGS").unwrap_or_default().split_whitespace())
            .output();
        let out = out.map_err(|e| {
            format!(
                "cannot run the C++ compiler {:?}: {e}; install it (package build-essential) or set CXX",
                compiler()
            )
        })?;
        if out.status.success() {
            Ok(program)
        } else {
            Err(format!("the kernels do not compile:\n{}", String::from_utf8_lossy(&out.stderr)))
        }
    });
    built.as_ref().unwrap_or_else(|cause| panic!("{cause}"))
}

struct Pipes {
    child: Child,
    /// `None` once closed.
    to: Option<BufWriter<ChildStdin>>,
    from: BufReader<ChildStdout>,
}

impl Pipes {
    fn to(&mut self) -> &mut BufWriter<ChildStdin> {
        self.to.as_mut().expect("the pipe is closed on drop only")
    }
}

impl Drop for Pipes {
    fn drop(&mut self) {
        // The program exits at the end of its input. A sanitizer reports its findings through the exit status.
        drop(self.to.take());
        let ended = self.child.wait();
        if !std::thread::panicking() {
            assert!(ended.is_ok_and(|status| status.success()), "the kernels' program failed: see above");
        }
    }
}

/// The launcher. Memory is freed when it is dropped.
pub struct Host {
    pipes: Rc<RefCell<Pipes>>,
    /// The last uploads, kept alive as a [`Launcher`] promises.
    uploads: [Option<Memory>; 2],
}

pub struct Memory {
    number: u32,
    bytes: usize,
    pipes: Rc<RefCell<Pipes>>,
}

impl Drop for Memory {
    fn drop(&mut self) {
        let mut pipes = self.pipes.borrow_mut();
        let to = pipes.to();
        let _ = to.write_all(b"F").and_then(|()| to.write_all(&self.number.to_le_bytes()));
    }
}

impl Host {
    pub fn new() -> Self {
        let mut child = Command::new(program())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program has been built");
        let to = Some(BufWriter::new(child.stdin.take().expect("piped")));
        let from = BufReader::new(child.stdout.take().expect("piped"));
        Self { pipes: Rc::new(RefCell::new(Pipes { child, to, from })), uploads: [None, None] }
    }

    fn exchange(&self, request: &[&[u8]], answer: &mut [u8]) {
        let mut pipes = self.pipes.borrow_mut();
        let to = pipes.to();
        let sent = request.iter().try_for_each(|part| to.write_all(part)).and_then(|()| to.flush());
        let received = sent.and_then(|()| pipes.from.read_exact(answer));
        received.expect("the program answers; its error message is above");
    }

    fn write_at(&self, number: u32, data: &[u8]) {
        let length = (data.len() as u64).to_le_bytes();
        self.exchange(&[b"W", &number.to_le_bytes(), &0u64.to_le_bytes(), &length, data], &mut []);
    }

    /// The bytes from `pointer` on.
    pub fn read(&self, pointer: Pointer, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        let (number, offset) = ((pointer.memory as u32).to_le_bytes(), pointer.offset.to_le_bytes());
        self.exchange(&[b"R", &number, &offset, &(bytes as u64).to_le_bytes()], &mut data);
        data
    }
}

impl Launcher for Host {
    type Memory = Memory;

    fn memory(&mut self, bytes: usize) -> Result<Memory, GpuError> {
        let mut number = [0; 4];
        self.exchange(&[b"A", &(bytes as u64).to_le_bytes()], &mut number);
        Ok(Memory { number: u32::from_le_bytes(number), bytes, pipes: Rc::clone(&self.pipes) })
    }

    fn pointer(&self, memory: &Memory) -> Pointer {
        Pointer { memory: memory.number.into(), offset: 0 }
    }

    fn write(&mut self, memory: &Memory, data: &[u8]) -> Result<(), GpuError> {
        assert!(data.len() <= memory.bytes);
        self.write_at(memory.number, data);
        Ok(())
    }

    fn upload(&mut self, bytes: usize, fill: &mut dyn FnMut(&mut [u8])) -> Result<Pointer, GpuError> {
        let mut data = vec![0xee; bytes];
        fill(&mut data);
        let memory = self.memory(bytes)?;
        self.write_at(memory.number, &data);
        let pointer = self.pointer(&memory);
        self.uploads.rotate_left(1);
        self.uploads[1] = Some(memory);
        Ok(pointer)
    }

    fn launch(&mut self, kernel: &'static str, shape: Shape, arguments: &[Argument]) -> Result<(), GpuError> {
        let mut request = (kernel.len() as u32).to_le_bytes().to_vec();
        request.extend(kernel.as_bytes());
        let numbers = shape.grid.iter().chain(&shape.block).chain([&shape.shared]);
        request.extend(numbers.flat_map(|n| n.to_le_bytes()));
        request.extend((arguments.len() as u32).to_le_bytes());
        for argument in arguments {
            match argument {
                Argument::At(pointer) => {
                    request.push(b'p');
                    request.extend((pointer.memory as u32).to_le_bytes());
                    request.extend(pointer.offset.to_le_bytes());
                }
                Argument::Null => request.push(b'0'),
                Argument::I32(value) => {
                    request.push(b'i');
                    request.extend(value.to_le_bytes());
                }
                Argument::U64(value) => {
                    request.push(b'u');
                    request.extend(value.to_le_bytes());
                }
                Argument::F32(value) => {
                    request.push(b'f');
                    request.extend(value.to_le_bytes());
                }
                Argument::F64(value) => {
                    request.push(b'd');
                    request.extend(value.to_le_bytes());
                }
            }
        }
        self.exchange(&[b"L", &request], &mut [0]);
        Ok(())
    }
}
