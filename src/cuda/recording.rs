//! Work that is put together once and queued as one: a graph of kernels, each behind the one before it.
//!
//! The graph is built node by node rather than captured from a stream: a capture in a context that is shared with the host
//! program fails as soon as the host synchronises the whole device or uses the legacy default stream beside it.

use std::sync::Arc;

use cudarc::driver::sys;

use super::context::Context;
use super::driver::{check, check_for_memory};
use super::module::Kernel;
use super::stream::clusters_of;
use crate::error::Result;

/// A graph that is being put together. The context must be current on the thread that uses it.
pub struct Recorder {
    context: Arc<Context>,
    raw: sys::CUgraph,
    last: Option<sys::CUgraphNode>,
}

// SAFETY: the driver's graphs may be used from any thread, one at a time.
unsafe impl Send for Recorder {}

/// What lets a kernel start while the one before it still runs: see [`super::launch`].
const OVERLAPPING: sys::CUgraphEdgeData = sys::CUgraphEdgeData {
    from_port: sys::CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC as u8,
    to_port: 0,
    type_: sys::CUgraphDependencyType::CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC as u8,
    reserved: [0; 5],
};

impl Recorder {
    /// Nothing yet.
    ///
    /// # Errors
    /// Whatever the driver reports.
    pub fn new(context: &Arc<Context>) -> Result<Self> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: writes one handle, which `drop` destroys.
        check_for_memory("recording a step", 0, unsafe { sys::cuGraphCreate(&mut raw, 0) })?;
        Ok(Self { context: context.clone(), raw, last: None })
    }

    /// Adds a launch of `kernel` in clusters of `cluster` blocks behind the last one. Its arguments are copied.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] for a launch that the device cannot do.
    ///
    /// # Safety
    /// `node` is a launch of `kernel` with the arguments that it declares, for clusters of so many blocks; what they point to lives as
    /// long as the graph.
    pub unsafe fn add(&mut self, kernel: &Kernel, node: &sys::CUDA_KERNEL_NODE_PARAMS, cluster: u32) -> Result<()> {
        let behind = self.last.filter(|_| !kernel.overlaps);
        let mut added = std::ptr::null_mut();
        let (first, count) = (behind.as_ref().map_or(std::ptr::null(), |last| &raw const *last), behind.iter().len());
        // SAFETY: nodes of this graph; the caller vouches for the launch.
        let code = unsafe { sys::cuGraphAddKernelNode_v2(&mut added, self.raw, first, count, node) };
        check_for_memory(&kernel.name, 0, code)?;
        if cluster > 1 {
            let attribute = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
            // SAFETY: a kernel of this graph, and the value of that attribute.
            let code = unsafe { sys::cuGraphKernelNodeSetAttribute(added, attribute, &clusters_of(cluster)) };
            check(&kernel.name, code)?;
        }
        if let Some(last) = self.last.filter(|_| kernel.overlaps) {
            // SAFETY: two kernels of this graph.
            let code = unsafe { sys::cuGraphAddDependencies_v2(self.raw, &last, &added, &OVERLAPPING, 1) };
            check_for_memory(&kernel.name, 0, code)?;
        }
        self.last = Some(added);
        Ok(())
    }

    /// All of it, ready to be queued in `stream`.
    ///
    /// # Errors
    /// [`crate::Error::OutOfDeviceMemory`].
    pub fn finish(self, stream: sys::CUstream) -> Result<Graph> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: a whole graph; writes one handle, which `drop` destroys.
        let code = unsafe { sys::cuGraphInstantiateWithFlags(&mut raw, self.raw, 0) };
        check_for_memory("the recorded step", 0, code)?;
        let graph = Graph { context: self.context.clone(), raw };
        // The device's side of it is set up now and not in the first step.
        // SAFETY: a graph and a stream of the current context.
        check("the recorded step", unsafe { sys::cuGraphUpload(graph.raw, stream) })?;
        Ok(graph)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // SAFETY: `new` made it; what was made of it does not need it.
        let _ = unsafe { sys::cuGraphDestroy(self.raw) };
    }
}

/// Recorded work.
pub struct Graph {
    context: Arc<Context>,
    pub(super) raw: sys::CUgraphExec,
}

// SAFETY: the driver's graphs may be used from any thread, one at a time.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        let Ok(_entered) = self.context.enter() else { return };
        // SAFETY: `finish` made it; work under way keeps what it needs of it.
        let _ = unsafe { sys::cuGraphExecDestroy(self.raw) };
    }
}
