//! The list of a checkpoint's tensors while it is being put together.

use std::collections::HashMap;

use super::folder::DataFile;
use super::role::Named;
use super::{DeltaTensor, LayerTensor, Role, TensorInfo, Unused, UnusedTensor};
use crate::error::Result;

/// The most files one checkpoint may consist of: ten times the largest published.
pub(super) const MAX_FILES: usize = 2048;

/// The most tensors, side tensors counted, that one checkpoint may list: twice those of the largest published model with
/// its experts one by one in 4 bits.
pub(super) const MAX_TENSORS: usize = 1 << 20;

/// Tensors by role, each role at most once.
#[derive(Debug, Default)]
pub(super) struct TensorList {
    pub tensors: Vec<TensorInfo>,
    pub by_role: HashMap<Role, usize>,
    pub unused: Vec<UnusedTensor>,
}

impl TensorList {
    /// Adds a tensor with a role.
    ///
    /// # Errors
    /// [`crate::Error::BadFile`] of `file` when another tensor has the same role.
    pub fn add(&mut self, file: &DataFile, mut tensor: TensorInfo) -> Result<()> {
        if tensor.role.is_convolution() && tensor.shape.len() == 3 && tensor.shape[1] == 1 {
            tensor.shape.remove(1);
        }
        if let Some(&other) = self.by_role.get(&tensor.role) {
            let other = self.tensors.get(other).map_or("", |t| &t.name);
            return Err(file.bad(format!("tensors {} and {other} both claim to be {:?}", tensor.name, tensor.role)));
        }
        self.by_role.insert(tensor.role, self.tensors.len());
        self.tensors.push(tensor);
        Ok(())
    }
}

impl Role {
    fn is_convolution(self) -> bool {
        matches!(self, Role::Layer(_, LayerTensor::Delta(DeltaTensor::Conv)))
    }
}

/// What `name` was classified as, or the error that names a tensor nobody knows.
pub(super) fn known(file: &DataFile, name: &str, named: Option<Named>) -> Result<Named> {
    named.ok_or_else(|| file.unsupported(format!("tensor {name}, which no supported model family has")))
}

impl Unused {
    /// A word for reports.
    pub const fn name(self) -> &'static str {
        match self {
            Unused::Vision => "vision",
            Unused::Mtp => "multi-token prediction",
            Unused::RopeTable => "rotary table",
        }
    }
}
