//! GPU-only features: streams, events, graphs, memory statistics, pinned memory. The ABI is in
//! shim/cuda/cuda.h.
//!
//! **Invariant:** without a GPU, or in the CPU flavour of libtorch, every function here returns an
//! error with the reason.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::ptr::NonNull;

use tch::Tensor;
use torch_sys::C_tensor;

use super::{ShimError, check};

/// Opaque in Rust.
#[repr(C)]
#[derive(Debug)]
struct PmStream([u8; 0]);
/// Opaque in Rust.
#[repr(C)]
#[derive(Debug)]
struct PmEvent([u8; 0]);
/// Opaque in Rust.
#[repr(C)]
#[derive(Debug)]
struct PmGraph([u8; 0]);

#[repr(C)]
struct PmCudaProperties {
    name: [c_char; 256],
    memory_bytes: i64,
    multiprocessors: i32,
    capability_major: i32,
    capability_minor: i32,
}

#[repr(C)]
#[derive(Default)]
struct PmCudaMemory {
    allocated_bytes: i64,
    allocated_peak_bytes: i64,
    reserved_bytes: i64,
    reserved_peak_bytes: i64,
}

#[expect(unsafe_code, reason = "libtorch's C++ is reachable in no other way")]
// SAFETY: the signatures match shim/cuda/cuda.h.
unsafe extern "C" {
    fn pm_cuda_built() -> c_int;
    fn pm_cuda_properties(device: c_int, properties: *mut PmCudaProperties) -> c_int;
    fn pm_cuda_memory(device: c_int, memory: *mut PmCudaMemory) -> c_int;
    fn pm_cuda_reset_peaks(device: c_int) -> c_int;
    fn pm_cuda_synchronize(device: c_int) -> c_int;
    fn pm_cuda_forbid_waits(forbid: c_int) -> c_int;

    fn pm_cuda_stream(device: c_int, high_priority: c_int, stream: *mut *mut PmStream) -> c_int;
    fn pm_cuda_stream_free(stream: *mut PmStream);
    fn pm_cuda_current_stream(device: c_int, stream: *mut *mut PmStream) -> c_int;
    fn pm_cuda_set_current_stream(stream: *const PmStream) -> c_int;
    fn pm_cuda_record_stream(tensor: *const C_tensor, stream: *const PmStream) -> c_int;

    fn pm_cuda_event(is_timed: c_int, event: *mut *mut PmEvent) -> c_int;
    fn pm_cuda_event_free(event: *mut PmEvent);
    fn pm_cuda_event_record(event: *mut PmEvent, stream: *const PmStream) -> c_int;
    fn pm_cuda_event_block(event: *mut PmEvent, stream: *const PmStream) -> c_int;
    fn pm_cuda_event_is_done(event: *const PmEvent, is_done: *mut c_int) -> c_int;
    fn pm_cuda_event_synchronize(event: *const PmEvent) -> c_int;
    fn pm_cuda_event_elapsed(start: *const PmEvent, end: *const PmEvent, ms: *mut f64) -> c_int;

    fn pm_cuda_graph(graph: *mut *mut PmGraph) -> c_int;
    fn pm_cuda_graph_free(graph: *mut PmGraph);
    fn pm_cuda_graph_begin(graph: *mut PmGraph, shares_pool_of: *mut PmGraph) -> c_int;
    fn pm_cuda_graph_end(graph: *mut PmGraph) -> c_int;
    fn pm_cuda_graph_replay(graph: *mut PmGraph) -> c_int;

    fn pm_cuda_pin(device: c_int, memory: *mut c_void, bytes: i64) -> c_int;
    fn pm_cuda_unpin(memory: *mut c_void) -> c_int;
    fn pm_cuda_upload(
        to: *mut C_tensor,
        from: *const c_void,
        bytes: i64,
        stream: *const PmStream,
    ) -> c_int;
}

/// A handle of the C++ side, freed on drop. It stays on the thread that made it.
#[derive(Debug)]
struct Handle<T> {
    pointer: NonNull<T>,
    free: unsafe extern "C" fn(*mut T),
    of: PhantomData<*mut T>,
}

impl<T> Handle<T> {
    fn new(
        operation: &'static str,
        free: unsafe extern "C" fn(*mut T),
        make: impl FnOnce(*mut *mut T) -> c_int,
    ) -> Result<Handle<T>, ShimError> {
        let mut pointer = std::ptr::null_mut();
        check(make(&raw mut pointer), operation)?;
        let pointer = NonNull::new(pointer).expect("a shim call that succeeds hands out a handle");
        Ok(Handle { pointer, free, of: PhantomData })
    }

    fn get(&self) -> *mut T {
        self.pointer.as_ptr()
    }
}

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "see the extern block")]
        // SAFETY: `free` frees this kind of handle, and is called on it only here.
        unsafe {
            (self.free)(self.get());
        }
    }
}

/// Properties of a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// Such as `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// The device's memory.
    pub memory_bytes: u64,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Compute capability, major and minor: (9, 0) for Hopper.
    pub capability: (u32, u32),
}

/// Memory of a GPU held by libtorch's caching allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// In tensors.
    pub allocated_bytes: u64,
    /// Peak of the above since the last reset.
    pub allocated_peak_bytes: u64,
    /// Taken from the driver.
    pub reserved_bytes: u64,
    /// Peak of the above since the last reset.
    pub reserved_peak_bytes: u64,
}

/// Whether the shim was built against the CUDA flavour of libtorch.
pub fn is_built() -> bool {
    #[expect(unsafe_code, reason = "see the extern block")]
    // SAFETY: no arguments.
    unsafe {
        pm_cuda_built() != 0
    }
}

/// The properties of device `device`.
pub fn properties(device: usize) -> Result<Properties, ShimError> {
    let mut found = PmCudaProperties {
        name: [0; 256],
        memory_bytes: 0,
        multiprocessors: 0,
        capability_major: 0,
        capability_minor: 0,
    };
    #[expect(unsafe_code, reason = "see the extern block")]
    // SAFETY: `found` has the layout of the C++ side.
    let status = unsafe { pm_cuda_properties(index(device), &raw mut found) };
    check(status, "device properties")?;
    let name = found.name.map(|byte| byte as u8);
    let name = CStr::from_bytes_until_nul(&name).expect("the name ends with a zero");
    let number = |number: i32| u32::try_from(number).unwrap_or(0);
    Ok(Properties {
        name: name.to_string_lossy().into_owned(),
        memory_bytes: bytes(found.memory_bytes),
        multiprocessors: number(found.multiprocessors),
        capability: (number(found.capability_major), number(found.capability_minor)),
    })
}

/// Memory of device `device` held by the caching allocator.
pub fn memory(device: usize) -> Result<Memory, ShimError> {
    let mut found = PmCudaMemory::default();
    #[expect(unsafe_code, reason = "see the extern block")]
    // SAFETY: `found` has the layout of the C++ side.
    let status = unsafe { pm_cuda_memory(index(device), &raw mut found) };
    check(status, "memory statistics")?;
    Ok(Memory {
        allocated_bytes: bytes(found.allocated_bytes),
        allocated_peak_bytes: bytes(found.allocated_peak_bytes),
        reserved_bytes: bytes(found.reserved_bytes),
        reserved_peak_bytes: bytes(found.reserved_peak_bytes),
    })
}

/// Resets the peaks of [`memory`].
pub fn reset_peaks(device: usize) -> Result<(), ShimError> {
    #[expect(unsafe_code, reason = "see the extern block")]
    // SAFETY: a number.
    let status = unsafe { pm_cuda_reset_peaks(index(device)) };
    check(status, "reset memory peaks")
}

/// Waits until `device` has finished everything it was given (host-device synchronisation).
pub fn synchronize(device: usize) -> Result<(), ShimError> {
    #[expect(unsafe_code, reason = "see the extern block")]
    // SAFETY: a number.
    let status = unsafe { pm_cuda_synchronize(index(device)) };
    check(status, "synchronize")
}

/// While `forbid` is set, an operation of libtorch that makes the host wait for a GPU fails. For
/// tests.
pub fn forbid_waits(forbid: bool) -> Result<(), ShimError> {
    #[expect(unsafe_code, reason = "see the extern block")]
    // SAFETY: a number.
    let status = unsafe { pm_cuda_forbid_waits(c_int::from(forbid)) };
    check(status, "forbid waits")
}

/// A queue of GPU work, executed in order.
#[derive(Debug)]
pub struct Stream(Handle<PmStream>);

/// When a stream's work runs if several streams have some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Like that of the default stream.
    Normal,
    /// Before that of the default stream.
    High,
}

impl Stream {
    /// A stream of the device's pool, never the default one.
    pub fn new(device: usize, priority: Priority) -> Result<Stream, ShimError> {
        let is_high = c_int::from(priority == Priority::High);
        #[expect(unsafe_code, reason = "see the extern block")]
        // SAFETY: `stream` is written on success alone.
        let make = |stream| unsafe { pm_cuda_stream(index(device), is_high, stream) };
        Handle::new("make a stream", pm_cuda_stream_free, make).map(Stream)
    }

    /// This thread's current stream on `device`.
    pub fn current(device: usize) -> Result<Stream, ShimError> {
        #[expect(unsafe_code, reason = "see the extern block")]
        // SAFETY: `stream` is written on success alone.
        let make = |stream| unsafe { pm_cuda_current_stream(index(device), stream) };
        Handle::new("current stream", pm_cuda_stream_free, make).map(Stream)
    }

    /// Makes this the thread's current stream, and its device the thread's current device.
    pub fn set_current(&self) -> Result<(), ShimError> {
        #[expect(unsafe_code, reason = "see the extern block")]
        // SAFETY: the handle is alive for the call.
        let status = unsafe { pm_cuda_set_current_stream(self.0.get()) };
        check(status, "change the stream")
    }

    /// Keeps the memory of `tensor` from being reused until this stream has finished the work it
    /// was given before the tensor's end.
    pub fn keeps(&self, tensor: &Tensor) -> Result<(), ShimError> {
        #[expect(unsafe_code, reason = "see the extern block")]
        // SAFETY: both handles are alive for the call.
        let status = unsafe { pm_cuda_record_stream(tensor.as_ptr(), self.0.get()) };
        check(status, "record a stream")
    }

    /// Fills all of `to` with `from` on this stream, without waiting.
    ///
    /// The caller keeps `from` unchanged until an event recorded after the copy is done. `from`
    /// should be pinned, else the host waits.
    pub fn upload(&self, from: &[u8], to: &mut Tensor) -> Result<(), ShimError> {
        let byte_count = i64::try_from(from.len()).expect("a buffer fits memory");
        #[expect(unsafe_code, reason = "see the extern block")]
        // SAFETY: handles and memory are alive for the call; the C++ side checks the sizes. The
        // memory is also read after the call: keeping it unchanged is the caller's duty, as
        // described above.
        let status = unsafe {
            pm_cuda_upload(to.as_mut_ptr(), from.as_ptr().cast(), byte_count, self.0.get())
        };
        check(status, "copy to the device")
    }
}

/// A point in a stream's work.
#[derive(Debug)]
pub struct Event(Handle<PmEvent>);

impl Event {
    /// An event that has recorded nothing. It counts as done.
    pub fn new() -> Result<Event, ShimError> {
        Event::make(0)
    }

    /// The same, with a time stamp.
    pub fn timed() -> Result<Event, ShimError> {
        Event::make(1)
    }

    fn make(is_timed: c_int) -> Result<Event, ShimError> {
        #[expect(unsafe_code, reason = "see the extern block")]
        // SAFETY: `event` is written on success alone.
        let make = |event| unsafe { pm_cuda_event(is_timed, event) };
        Handle::new("make an event", pm_cuda_event_free, make).map(Event)
    }

    /// Records the event: it is done when `stream` has finished everything it was given so far.
    pub fn record(&self, stream: &Stream) -> Result<(), ShimError> {
        #[expect(unsafe_code, reason = "see the extern block")]
        // SAFETY: both handles are alive for the call.
        let status = unsafe { pm_cuda_event_record(self.0.get(), stream.0.get()) };
        check(status, "record an event")
    }

    /// Makes all work given to `stream` from now on wait for this event; the host does not wait.
    pub fn block(&self, stream: &Stream) -> Result<(), ShimError> {
        #[expect(unsafe_code, reason = "see the extern block")]
        // SAFETY: both handles are alive for the call.
        let status = unsafe { pm_cuda_event_block(self.0.get(), stream.0.get()) };
        check(status, "wait for an event")
    }

    /// Whether the event is done; never waits.
    pub fn is_done(&self) -> Result<bool, ShimError> {
        let mut is_done = 0;
        #[expect(unsafe_code, reason = "see the extern block")]
        // SAFETY: the handle is alive for the call.
        let status = unsafe { pm_cuda_event_is_done(self.0.get(), &raw mut is_done) };
        check(status, "query an event")?;
        Ok(is_done != 0)
    }

    /// Waits until the event is done (host-device synchronisation).
    pub fn synchronize(&self) -> Result<(), ShimError> {
        #[expect(unsafe_code, reason = "see the extern block")]
        // SAFETY: the handle is alive for the call.
        let status = unsafe { pm_cuda_event_synchronize(self.0.get()) };
        check(status, "wait for an event")
    }

    /// Milliseconds from this event to `end`; both must be timed and done.
    pub fn ms_until(&self, end: &Event) -> Result<f64, ShimError> {
        let mut milliseconds = 0.0;
        #[expect(unsafe_code, reason = "see the extern block")]
        // SAFETY: both handles are alive for the call.
        let status =
            unsafe { pm_cuda_event_elapsed(self.0.get(), end.0.get(), &raw mut milliseconds) };
        check(status, "time between events")?;
        Ok(milliseconds)
    }
}

/// Work captured once and replayed by one launch.
#[derive(Debug)]
pub struct Graph(Handle<PmGraph>);

impl Graph {
    /// Captures the work that `work` gives to this thread's current stream, which must not be the
    /// default one. None of it runs, and the tensors it makes keep their addresses in each replay.
    /// `shares_pool_of` is a graph whose memory the new one may use; such graphs must be replayed
    /// in the order of their capture.
    pub fn capture<E: From<ShimError>>(
        shares_pool_of: Option<&Graph>,
        work: impl FnOnce() -> Result<(), E>,
    ) -> Result<Graph, E> {
        #[expect(unsafe_code, reason = "see the extern block")]
        // SAFETY: `graph` is written on success alone.
        let make = |graph| unsafe { pm_cuda_graph(graph) };
        let graph = Handle::new("make a graph", pm_cuda_graph_free, make)?;
        let shared = shares_pool_of.map_or(std::ptr::null_mut(), |graph| graph.0.get());
        #[expect(unsafe_code, reason = "see the extern block")]
        // SAFETY: the handles are alive for the call; `shared` may be null.
        let status = unsafe { pm_cuda_graph_begin(graph.get(), shared) };
        check(status, "begin a capture")?;
        let worked = work();
        #[expect(unsafe_code, reason = "see the extern block")]
        // SAFETY: the handle is alive for the call. The capture is ended after an error of `work`
        // too, so that the stream does not stay in it.
        let status = unsafe { pm_cuda_graph_end(graph.get()) };
        worked?;
        check(status, "end a capture")?;
        Ok(Graph(graph))
    }

    /// Launches the captured work on this thread's current stream.
    pub fn replay(&self) -> Result<(), ShimError> {
        #[expect(unsafe_code, reason = "see the extern block")]
        // SAFETY: the handle is alive for the call.
        let status = unsafe { pm_cuda_graph_replay(self.0.get()) };
        check(status, "replay a graph")
    }
}

/// Memory pinned for the lifetime of this value.
#[derive(Debug)]
pub struct PinnedMemory {
    address: usize,
}

impl PinnedMemory {
    /// Pins `memory` for copies to every GPU. The caller drops the returned value before freeing
    /// the memory.
    pub fn new(device: usize, memory: &mut [u8]) -> Result<PinnedMemory, ShimError> {
        let byte_count = i64::try_from(memory.len()).expect("a buffer fits memory");
        #[expect(unsafe_code, reason = "see the extern block")]
        // SAFETY: the memory is alive for the call. Pinning changes none of it.
        let status = unsafe { pm_cuda_pin(index(device), memory.as_mut_ptr().cast(), byte_count) };
        check(status, "pin memory")?;
        Ok(PinnedMemory { address: memory.as_ptr() as usize })
    }
}

impl Drop for PinnedMemory {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "see the extern block")]
        // SAFETY: the memory was pinned at this address, and is unpinned once. If that fails,
        // nothing is left to do.
        let _status = unsafe { pm_cuda_unpin(self.address as *mut c_void) };
    }
}

fn index(device: usize) -> c_int {
    c_int::try_from(device).expect("a machine has few devices")
}

fn bytes(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_gpu_every_call_says_why() {
        if tch::Cuda::is_available() {
            eprintln!("skipped: there is a GPU");
            return;
        }
        let expected = if is_built() { "driver" } else { "built against the CPU libtorch" };
        let messages = [
            properties(0).unwrap_err(),
            memory(0).unwrap_err(),
            reset_peaks(0).unwrap_err(),
            synchronize(0).unwrap_err(),
            Stream::new(0, Priority::High).unwrap_err(),
            PinnedMemory::new(0, &mut [0; 4096]).unwrap_err(),
        ];
        for err in messages {
            assert!(err.message.contains(expected), "{err}");
        }
        let absent: Result<Graph, ShimError> = Graph::capture(None, || Ok(()));
        assert!(absent.is_err());
    }
}
