//! How work is laid out on the device.

use cubecl::prelude::{CubeCount, CubeDim};

/// Units of the groups that tile matrices and of those that reduce.
pub(crate) const UNITS: usize = 256;

/// Groups along one axis of a launch: APIs allow 65,535.
const WIDTH: usize = 1 << 15;

/// `groups` groups. Kernels number them by `CUBE_POS` and leave the surplus of the last row idle.
pub(crate) fn groups(groups: usize) -> CubeCount {
    let wide = groups.clamp(1, WIDTH);
    let high = groups.div_ceil(wide).max(1);
    assert!(high <= WIDTH, "{groups} groups are more than a launch may have");
    CubeCount::Static(wide as u32, high as u32, 1)
}

/// One unit for each of `elements`, in groups of [`UNITS`].
pub(crate) fn units(elements: usize) -> CubeCount {
    groups(elements.div_ceil(UNITS))
}

pub(crate) fn dim() -> CubeDim {
    CubeDim::new_1d(UNITS as u32)
}
