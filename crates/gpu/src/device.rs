//! The graphics processors of this machine.

use std::collections::HashMap;
use std::fmt;
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cubecl::device::{WgpuBackend, WgpuDevice, WgpuDeviceKind};
use cubecl::ir::features::TypeUsage;
use cubecl::wgpu::{AutoCompiler, WgpuRuntime, WgslCompiler, wgpu};
use cubecl_runtime::runtime::Runtime;

use crate::buffer::{Buffer, Element, Reservation};
use crate::error::{Error, Result};
use crate::tile::MatrixUnits;
use crate::tuning::Tuner;

/// A graphics API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Api {
    /// The first of the others that has a device.
    Any,
    /// Vulkan: Linux, Windows, Android.
    Vulkan,
    /// Metal: macOS.
    Metal,
    /// DirectX 12: Windows.
    Dx12,
}

impl Api {
    /// The APIs that this one stands for, the best first. OpenGL is never among them: its drivers may lose a NaN.
    fn backends(self) -> &'static [WgpuBackend] {
        match self {
            Self::Any => &[WgpuBackend::Vulkan, WgpuBackend::Metal, WgpuBackend::Dx12],
            Self::Vulkan => &[WgpuBackend::Vulkan],
            Self::Metal => &[WgpuBackend::Metal],
            Self::Dx12 => &[WgpuBackend::Dx12],
        }
    }
}

impl fmt::Display for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "gpu",
            Self::Vulkan => "vulkan",
            Self::Metal => "metal",
            Self::Dx12 => "dx12",
        })
    }
}

/// A device that an API offers.
#[derive(Clone, Debug)]
pub struct Adapter {
    device: WgpuDevice,
    /// The API through which it was found.
    pub api: Api,
    /// Its number among the API's devices: graphics cards first, then integrated ones, then software.
    pub index: usize,
}

impl Adapter {
    /// Whether this is a program on the processor that implements the API, such as lavapipe or WARP.
    pub fn is_software(&self) -> bool {
        self.device.kind == WgpuDeviceKind::Cpu
    }
}

/// The devices that an API offers, the fastest kinds first. Empty without a driver. The driver is asked once.
pub fn adapters(api: Api) -> Vec<Adapter> {
    static FOUND: Mutex<Option<HashMap<Api, Vec<Adapter>>>> = Mutex::new(None);
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    found.get_or_insert_default().entry(api).or_insert_with(|| enumerate(api)).clone()
}

fn enumerate(api: Api) -> Vec<Adapter> {
    let offered = api.backends().iter().map(|&backend| enumerate_backend(backend));
    let devices = offered.into_iter().find(|devices| !devices.is_empty()).unwrap_or_default();
    devices.into_iter().enumerate().map(|(index, device)| Adapter { device, api, index }).collect()
}

fn enumerate_backend(backend: WgpuBackend) -> Vec<WgpuDevice> {
    use WgpuDeviceKind as Kind;
    let kinds = [Kind::DiscreteGpu(0), Kind::IntegratedGpu(0), Kind::VirtualGpu(0), Kind::Other(0), Kind::Cpu];
    let of = |kind| cubecl::Device::enumerate(cubecl::Device::Wgpu(WgpuDevice::new(kind).on(backend)).to_id());
    let devices = kinds.into_iter().flat_map(of).map(cubecl::Device::from_id);
    devices.filter_map(|device| if let cubecl::Device::Wgpu(device) = device { Some(device) } else { None }).collect()
}

/// What a device can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// The device's name for itself.
    pub name: String,
    /// Bytes of its memory, where the driver says.
    pub memory: Option<u64>,
    /// Bytes that a single buffer may have.
    pub largest_buffer: u64,
    /// Whether it computes in 16-bit floating point.
    pub half: bool,
    /// Whether it takes and gives bf16.
    pub bfloat: bool,
    /// Whether 16-bit numbers are multiplied on matrix units (tensor cores, through cooperative matrices).
    pub matrix_units: bool,
    /// What kernels are compiled to, such as `wgpu<spirv>`.
    pub compiler: &'static str,
    /// Whether the device is a program on the processor.
    pub software: bool,
}

/// An open device. Clones share it.
#[derive(Clone)]
pub struct Gpu {
    pub(crate) client: cubecl::client::Client,
    /// What multiplies matrices of f16 and of bf16, where the device has it.
    units: Arc<[Option<MatrixUnits>; 2]>,
    /// What kernels are compiled to.
    compiler: &'static str,
    pub(crate) tuner: Arc<Mutex<Tuner>>,
    software: bool,
    /// Bytes of all buffers, and how many there may be.
    used: Arc<AtomicU64>,
    limit: u64,
}

/// The most bytes that buffers may take together: the environment variable `SKIPSTONE_GPU_MEMORY` in MiB, else what the driver
/// grants.
fn limit() -> Result<u64> {
    let Ok(text) = std::env::var("SKIPSTONE_GPU_MEMORY") else { return Ok(u64::MAX) };
    let bytes = text.trim().parse::<u64>().ok().and_then(|mib| mib.checked_mul(1 << 20));
    bytes.ok_or_else(|| Error::Unavailable(format!("SKIPSTONE_GPU_MEMORY: expected a number of MiB, found \"{text}\"")))
}

/// A client of the device, and its matrix units where they are to be used.
///
/// Kernels are compiled to SPIR-V for matrix units alone. Otherwise they are compiled to WGSL, which every API takes: CubeCL's
/// SPIR-V needs extensions that older drivers lack. The environment variable `SKIPSTONE_GPU_MATRIX_UNITS=off` chooses WGSL
/// everywhere.
fn client(device: &WgpuDevice) -> Result<(cubecl::client::Client, [Option<MatrixUnits>; 2], &'static str)> {
    let wanted = std::env::var("SKIPSTONE_GPU_MATRIX_UNITS").map_or(true, |text| text != "off");
    // The runtime reports a driver's refusal by a panic in a thread of its own.
    let client = catch_unwind(|| {
        // A device keeps the compiler with which it is opened first, so the driver is asked before.
        if wanted && has_cooperative_matrices(device) {
            let client = WgpuRuntime::<AutoCompiler>::client(device);
            let units = [Element::F16, Element::BF16].map(|element| MatrixUnits::of(client.properties(), element));
            return (client, units, "wgpu<spirv>");
        }
        (WgpuRuntime::<WgslCompiler>::client(device), [None; 2], "wgpu<wgsl>")
    });
    client.map_err(|_| Error::Unavailable("the driver refuses; see the message above".into()))
}

/// Whether the Vulkan driver of this device has cooperative matrices.
fn has_cooperative_matrices(device: &WgpuDevice) -> bool {
    use wgpu::DeviceType as Type;
    let (kind, number) = match device.kind {
        WgpuDeviceKind::DiscreteGpu(number) => (Type::DiscreteGpu, number),
        WgpuDeviceKind::IntegratedGpu(number) => (Type::IntegratedGpu, number),
        WgpuDeviceKind::VirtualGpu(number) => (Type::VirtualGpu, number),
        WgpuDeviceKind::Cpu => (Type::Cpu, 0),
        WgpuDeviceKind::Other(number) => (Type::Other, number),
        _ => return false,
    };
    if device.backend != WgpuBackend::Vulkan {
        return false;
    }
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::VULKAN,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let adapters = cubecl::future::block_on(instance.enumerate_adapters(wgpu::Backends::VULKAN));
    let same = adapters.iter().filter(|adapter| adapter.get_info().device_type == kind).nth(number);
    same.is_some_and(|adapter| adapter.features().contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX))
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gpu").field(&self.client.properties().identity.name).finish()
    }
}

impl Gpu {
    /// Opens a device. The second time, this costs nothing.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn open(adapter: &Adapter) -> Result<Self> {
        static OPEN: Mutex<Option<HashMap<WgpuDevice, Gpu>>> = Mutex::new(None);
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let open = open.get_or_insert_default();
        if let Some(gpu) = open.get(&adapter.device) {
            return Ok(gpu.clone());
        }
        let (mut client, units, compiler) = client(&adapter.device)?;
        // All work goes to one stream, in the order of its submission, from whichever thread; without this, each thread has
        // its own. A handle knows the present one.
        let stream = client.empty(4).stream;
        // SAFETY: a stream only orders work. All handles of this client belong to this one, so no work waits for another
        // stream's, and the client serialises submissions from several threads.
        unsafe { client.set_stream(stream) };
        let gpu = Self {
            client,
            units: Arc::new(units),
            compiler,
            tuner: Arc::default(),
            software: adapter.is_software(),
            used: Arc::default(),
            limit: limit()?,
        };
        open.insert(adapter.device.clone(), gpu.clone());
        Ok(gpu)
    }

    /// What the device can do.
    pub fn properties(&self) -> Properties {
        let properties = self.client.properties();
        Properties {
            name: properties.identity.name.clone(),
            memory: properties.memory.max_memory(),
            largest_buffer: properties.memory.max_page_size,
            half: self.stores(Element::F16),
            bfloat: self.stores(Element::BF16),
            matrix_units: self.units.iter().any(Option::is_some),
            compiler: self.compiler,
            software: self.software,
        }
    }

    /// Whether kernels can read and write numbers stored as `element`.
    pub(crate) fn stores(&self, element: Element) -> bool {
        element.kind().is_none_or(|kind| {
            let usage = self.client.features().type_usage(kind);
            usage.contains(TypeUsage::Buffer) && usage.contains(TypeUsage::Conversion)
        })
    }

    /// What multiplies matrices of numbers stored as `element`, where the device has it.
    pub(crate) fn units_for(&self, element: Element) -> Option<MatrixUnits> {
        match element {
            Element::F32 => None,
            Element::F16 => self.units[0],
            Element::BF16 => self.units[1],
        }
    }

    /// Reserves `len` elements, whose values are undefined.
    ///
    /// # Errors
    /// The device has too little memory, or the buffer is larger than it allows.
    pub fn reserve(&self, len: usize) -> Result<Buffer> {
        let bytes = 4 * len.max(1);
        let reservation = Reservation::new(bytes as u64, &self.used, self.limit).ok_or(Error::OutOfMemory)?;
        let handle = self.client.empty(bytes);
        self.client.check([&handle]).map_err(Error::from)?;
        Ok(Buffer::new(handle, len, reservation))
    }

    /// A buffer with these values.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve).
    pub fn upload(&self, values: &[f32]) -> Result<Buffer> {
        let buffer = self.reserve(values.len())?;
        self.write(&buffer, values);
        Ok(buffer)
    }

    /// As [`upload`](Self::upload), for integers.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve).
    pub fn upload_integers(&self, values: &[u32]) -> Result<Buffer> {
        let buffer = self.reserve(values.len())?;
        self.write_integers(&buffer, values);
        Ok(buffer)
    }

    /// Copies values to the beginning of a buffer. Takes effect in the order of submission.
    ///
    /// # Panics
    /// The buffer is shorter.
    pub fn write(&self, buffer: &Buffer, values: &[f32]) {
        self.write_integers(buffer, bytemuck::cast_slice(values));
    }

    /// As [`write`](Self::write), for integers.
    ///
    /// # Panics
    /// The buffer is shorter.
    pub fn write_integers(&self, buffer: &Buffer, values: &[u32]) {
        let to = buffer.slice(0, values.len());
        if !values.is_empty() {
            let bytes: &[u8] = bytemuck::cast_slice(values);
            self.client.write(to.handle(), cubecl::bytes::Bytes::from_bytes_vec(bytes.to_vec()));
        }
    }

    /// Waits for the device and copies a buffer's values.
    ///
    /// # Errors
    /// Any work on which the values depend has failed, or the device is lost.
    pub fn read(&self, buffer: &Buffer) -> Result<Vec<f32>> {
        if buffer.is_empty() {
            return Ok(Vec::new());
        }
        let bytes = self.client.read_one(buffer.handle().clone()).map_err(Error::from)?;
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    }

    /// Waits until the device has done everything submitted.
    ///
    /// # Errors
    /// The device is lost.
    pub fn wait(&self) -> Result<()> {
        cubecl::future::block_on(self.client.sync()).map_err(Error::from)
    }

    /// Returns memory that nothing uses to the driver.
    ///
    /// # Errors
    /// The device is lost.
    pub fn release_unused(&self) -> Result<()> {
        self.client.memory_cleanup().map_err(Error::from)
    }

    /// Bytes of all buffers, and bytes that the process holds of the device's memory, used or not.
    pub fn memory_use(&self) -> (u64, u64) {
        let usage = self.client.memory_report(cubecl::MemoryScope::Device).usage();
        (self.used.load(Ordering::Relaxed), usage.bytes_reserved)
    }
}
