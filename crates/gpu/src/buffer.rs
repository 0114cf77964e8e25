//! Device memory: buffers, slices of them, and views of pixels.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::BufferArg;
use cubecl::server::Handle;

/// Elements to whose multiples slices begin: 256 bytes, the largest alignment that a graphics API lets a device demand.
pub const ALIGNMENT: usize = 64;

/// How numbers are stored. Kernels compute in single precision, whatever they read and write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Element {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits (IEEE binary16), two in an element of a [`Buffer`].
    F16,
    /// 16 bits with the exponents of 32 (bfloat16), two in an element of a [`Buffer`].
    BF16,
}

impl Element {
    /// The type that a device needs for it; `None` for the one that every device has.
    pub(crate) fn kind(self) -> Option<ElemType> {
        match self {
            Self::F32 => None,
            Self::F16 => Some(ElemType::Float(FloatKind::F16)),
            Self::BF16 => Some(ElemType::Float(FloatKind::BF16)),
        }
    }

    /// Its usual name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
        }
    }

    /// How many of these numbers a 32-bit element holds.
    pub fn per_word(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// 32-bit elements that `len` numbers take.
    pub fn words(self, len: usize) -> usize {
        len.div_ceil(self.per_word())
    }

    /// Numbers to whose multiples slices begin.
    pub fn alignment(self) -> usize {
        ALIGNMENT * self.per_word()
    }
}

/// The instance of a kernel for this way of storing numbers.
macro_rules! instance {
    ($kernel:ident, $element:expr) => {
        match $element {
            $crate::buffer::Element::F32 => $kernel::launch_unchecked::<f32>,
            $crate::buffer::Element::F16 => $kernel::launch_unchecked::<half::f16>,
            $crate::buffer::Element::BF16 => $kernel::launch_unchecked::<half::bf16>,
        }
    };
}
pub(crate) use instance;

/// The instance of a kernel that multiplies tiles, for this way of storing numbers, on matrix units if there are any.
macro_rules! multiplying_instance {
    ($kernel:ident, $element:expr, $units:expr) => {
        match ($element, $units) {
            ($crate::buffer::Element::F32, _) => $kernel::launch_unchecked::<f32, $crate::tile::Plain>,
            ($crate::buffer::Element::F16, None) => $kernel::launch_unchecked::<half::f16, $crate::tile::Plain>,
            ($crate::buffer::Element::BF16, None) => $kernel::launch_unchecked::<half::bf16, $crate::tile::Plain>,
            ($crate::buffer::Element::F16, Some(_)) => {
                $kernel::launch_unchecked::<half::f16, $crate::tile::Units<half::f16>>
            }
            ($crate::buffer::Element::BF16, Some(_)) => {
                $kernel::launch_unchecked::<half::bf16, $crate::tile::Units<half::bf16>>
            }
        }
    };
}
pub(crate) use multiplying_instance;

/// 32-bit elements in the device's memory. Clones share the memory.
#[derive(Clone, Debug)]
pub struct Buffer {
    handle: Handle,
    len: usize,
    /// Counts the memory as long as any clone or slice is there.
    reservation: Arc<Reservation>,
}

/// Bytes that count towards the memory in use.
#[derive(Debug)]
pub(crate) struct Reservation {
    bytes: u64,
    used: Arc<AtomicU64>,
}

impl Reservation {
    /// Counts `bytes` more; `None` if that exceeds `limit`.
    pub fn new(bytes: u64, used: &Arc<AtomicU64>, limit: u64) -> Option<Self> {
        let add = |before: u64| before.checked_add(bytes).filter(|after| *after <= limit);
        used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).ok()?;
        Some(Self { bytes, used: used.clone() })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Buffer {
    pub(crate) fn new(handle: Handle, len: usize, reservation: Reservation) -> Self {
        assert!(handle.size_in_used() >= 4 * len as u64, "{len} elements do not fit the allocation");
        Self { handle, len, reservation: Arc::new(reservation) }
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the buffer has no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements `begin..begin + len`.
    ///
    /// # Panics
    /// They are not all in the buffer, or `begin` is no multiple of [`ALIGNMENT`].
    pub fn slice(&self, begin: usize, len: usize) -> Self {
        assert!(begin.is_multiple_of(ALIGNMENT), "slice at {begin}");
        assert!(begin.checked_add(len).is_some_and(|end| end <= self.len), "{len} elements at {begin} of {}", self.len);
        let size = self.handle.size_in_used();
        let handle = self.handle.clone().offset_start(4 * begin as u64).offset_end(size - 4 * (begin + len) as u64);
        Self { handle, len, reservation: self.reservation.clone() }
    }

    /// The buffer as an argument of a kernel.
    pub(crate) fn arg(&self) -> BufferArg {
        // SAFETY: `new` and `slice` checked that the allocation holds `len` elements from the handle's offset on.
        unsafe { BufferArg::from_raw_parts(self.handle.clone(), self.len) }
    }

    /// The buffer as an argument of a kernel that takes it for numbers stored as `element`.
    pub(crate) fn arg_of(&self, element: Element) -> BufferArg {
        // SAFETY: as many such numbers as are told take the memory of the `len` elements that the allocation holds.
        unsafe { BufferArg::from_raw_parts(self.handle.clone(), element.per_word() * self.len) }
    }
}

/// Rows of channels within a buffer: pixels of images, or vectors. A view may be part of wider rows.
#[derive(Clone, Debug)]
pub struct View {
    /// The memory.
    pub buffer: Buffer,
    /// Elements from one row to the next.
    pub stride: usize,
    /// The first channel's place in a row.
    pub offset: usize,
    /// How channels are stored; strides and offsets count these.
    pub element: Element,
}

impl View {
    /// Rows of `channels` without gaps.
    pub fn dense(buffer: Buffer, channels: usize) -> Self {
        Self { buffer, stride: channels, offset: 0, element: Element::F32 }
    }

    /// Part of wider rows.
    pub fn part(buffer: Buffer, stride: usize, offset: usize) -> Self {
        Self { buffer, stride, offset, element: Element::F32 }
    }

    /// The view of numbers that are stored in another way.
    #[must_use]
    pub fn stored(self, element: Element) -> Self {
        Self { element, ..self }
    }

    /// The numbers as an argument of a kernel.
    pub(crate) fn arg(&self) -> BufferArg {
        self.buffer.arg_of(self.element)
    }

    /// Panics unless `rows` rows of `channels` are in the buffer.
    pub(crate) fn check(&self, rows: usize, channels: usize, what: &str) {
        assert!(self.offset + channels <= self.stride, "{what}: {channels} channels in rows of {}", self.stride);
        let end = rows.checked_sub(1).map_or(0, |last| last * self.stride + self.offset + channels);
        let len = self.element.per_word() * self.buffer.len();
        assert!(end <= len, "{what}: {rows} rows of {} in {len} elements", self.stride);
    }
}
