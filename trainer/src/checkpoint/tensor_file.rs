//! Safetensors files, read and written a tensor at a time: never the whole file in memory.
//!
//! The `safetensors` crate parses the header. The data are read and written here, because the crate
//! wants the whole file in memory and writes it with the access rights of a temporary file.
//!
//! **Invariant:** a file is read only if its length is exactly what its header promises; equal
//! tensors give equal bytes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use pipeline::disk::source::open_file;
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensorError};
use schemas::git_lfs;
use tch::{Device, Kind, Tensor};

/// Bytes of the header's length field.
const LENGTH_BYTES: u64 = 8;
/// Largest accepted header: some 8,000 tensors. A crafted length must not cost memory.
pub const HEADER_BYTES_MAX: u64 = 1 << 20;

/// The reason a safetensors file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TensorFileError {
    /// The operating system reported an error.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The length differs from the header's.
    #[error(
        "file is {found_bytes} bytes; its header promises {expected_bytes}, so it is \
         truncated or damaged"
    )]
    Length {
        /// Length of the file.
        found_bytes: u64,
        /// Length by the header.
        expected_bytes: u64,
    },
    /// A pointer of Git LFS in place of the file.
    #[error("file {}", git_lfs::ADVICE)]
    LfsPointer,
    /// A header length beyond [`HEADER_BYTES_MAX`], hence hardly a safetensors file.
    #[error(
        "header is {found_bytes} bytes; at most {HEADER_BYTES_MAX} are read, so this is \
         hardly a safetensors file"
    )]
    HeaderLength {
        /// Length in the file.
        found_bytes: u64,
    },
    /// The header is not valid JSON of the format.
    #[error("header: {0}")]
    Header(#[from] serde_json::Error),
    /// The header contradicts itself.
    #[error("header: {0}")]
    Layout(#[from] SafeTensorError),
    /// A requested tensor is missing.
    #[error("there is no tensor {name:?}")]
    Missing {
        /// Its name.
        name: String,
    },
    /// An unsupported dtype.
    #[error("tensor {name:?} is of dtype {found:?}; expected one of F64, F32, BF16, F16, I64, U8")]
    Kind {
        /// The tensor.
        name: String,
        /// Its dtype.
        found: Dtype,
    },
    /// libtorch failed, for instance for lack of memory.
    #[error("tensor {name:?}: {source}")]
    Tensor {
        /// The tensor.
        name: String,
        /// libtorch's message.
        source: tch::TchError,
    },
}

/// A safetensors file, open for reading.
#[derive(Debug)]
pub struct TensorFile {
    file: File,
    metadata: Metadata,
    first_data_byte: u64,
}

impl TensorFile {
    /// Opens `path` and checks header and length; reads no data yet.
    pub fn open(path: &Path) -> Result<TensorFile, TensorFileError> {
        let mut file = open_file(path)?;
        let found_bytes = file.metadata()?.len();
        if found_bytes < LENGTH_BYTES {
            return Err(TensorFileError::Length { found_bytes, expected_bytes: LENGTH_BYTES });
        }
        let mut length = [0; LENGTH_BYTES as usize];
        file.read_exact(&mut length)?;
        let header_bytes = u64::from_le_bytes(length);
        if HEADER_BYTES_MAX < header_bytes {
            if begins_as_pointer(&mut file)? {
                return Err(TensorFileError::LfsPointer);
            }
            return Err(TensorFileError::HeaderLength { found_bytes: header_bytes });
        }
        let first_data_byte = LENGTH_BYTES + header_bytes;
        if found_bytes < first_data_byte {
            return Err(TensorFileError::Length { found_bytes, expected_bytes: first_data_byte });
        }
        let mut header = vec![0; usize::try_from(header_bytes).expect("the header is small")];
        file.read_exact(&mut header)?;
        // Checks offsets and sizes against one another.
        let metadata: Metadata = serde_json::from_slice(&header)?;
        let expected_bytes = first_data_byte + metadata.data_len() as u64;
        if found_bytes != expected_bytes {
            return Err(TensorFileError::Length { found_bytes, expected_bytes });
        }
        Ok(TensorFile { file, metadata, first_data_byte })
    }

    /// Names, in the order of the data.
    pub fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// Shape and dtype of a tensor.
    pub fn form(&self, name: &str) -> Result<(Vec<i64>, Kind), TensorFileError> {
        let info = self.info(name)?;
        let shape = info
            .shape
            .iter()
            .map(|&size| i64::try_from(size).expect("sizes are checked"))
            .collect();
        let kind = kind_of(info.dtype)
            .ok_or_else(|| TensorFileError::Kind { name: name.to_owned(), found: info.dtype })?;
        Ok((shape, kind))
    }

    /// Reads a tensor onto the CPU.
    pub fn read(&mut self, name: &str) -> Result<Tensor, TensorFileError> {
        let (shape, kind) = self.form(name)?;
        let (first, end) = self.info(name)?.data_offsets;
        self.file.seek(SeekFrom::Start(self.first_data_byte + first as u64))?;
        let mut bytes = vec![0; end - first];
        self.file.read_exact(&mut bytes)?;
        Tensor::f_from_data_size(&bytes, &shape, kind)
            .map_err(|source| TensorFileError::Tensor { name: name.to_owned(), source })
    }

    /// Reads every tensor, in the order of the data.
    pub fn read_all(&mut self) -> Result<Vec<(String, Tensor)>, TensorFileError> {
        self.names().into_iter().map(|name| Ok((name.clone(), self.read(&name)?))).collect()
    }

    fn info(&self, name: &str) -> Result<&TensorInfo, TensorFileError> {
        self.metadata.info(name).ok_or_else(|| TensorFileError::Missing { name: name.to_owned() })
    }
}

fn begins_as_pointer(file: &mut File) -> io::Result<bool> {
    let mut head = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(git_lfs::HEAD_BYTES).read_to_end(&mut head)?;
    Ok(git_lfs::is_pointer(&head))
}

/// Writes `tensors` to a new file at `path`, in order of their names, and waits until it is on the
/// disk.
///
/// Dtypes are kept. The file is written directly under its name; publishing it atomically is left
/// to the caller.
pub fn write(path: &Path, tensors: &[(String, Tensor)]) -> Result<(), TensorFileError> {
    let mut sorted: Vec<&(String, Tensor)> = tensors.iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let mut infos = Vec::with_capacity(sorted.len());
    let mut end = 0;
    for (name, tensor) in &sorted {
        let dtype = dtype_of(tensor.kind());
        let shape: Vec<usize> = tensor.size().iter().map(|&size| size as usize).collect();
        let first = end;
        end += shape.iter().product::<usize>() * tensor.kind().elt_size_in_bytes();
        infos.push((name.clone(), TensorInfo { dtype, shape, data_offsets: (first, end) }));
    }
    let notes = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut header = serde_json::to_vec(&Metadata::new(Some(notes), infos)?)?;
    header.resize(header.len().next_multiple_of(LENGTH_BYTES as usize), b' ');

    let mut out = BufWriter::with_capacity(1 << 20, File::create_new(path)?);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for (name, tensor) in sorted {
        let bytes = bytes_of(tensor)
            .map_err(|source| TensorFileError::Tensor { name: name.clone(), source })?;
        out.write_all(&bytes)?;
    }
    out.flush()?;
    out.get_ref().sync_all()?;
    Ok(())
}

/// The tensor's elements as little-endian bytes (host-device synchronisation).
fn bytes_of(tensor: &Tensor) -> Result<Vec<u8>, tch::TchError> {
    let flat = tensor.detach().f_to_device(Device::Cpu)?.f_contiguous()?;
    let mut bytes = vec![0; flat.numel() * flat.kind().elt_size_in_bytes()];
    flat.f_copy_data_u8(&mut bytes, flat.numel())?;
    Ok(bytes)
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    match dtype {
        Dtype::F64 => Some(Kind::Double),
        Dtype::F32 => Some(Kind::Float),
        Dtype::BF16 => Some(Kind::BFloat16),
        Dtype::F16 => Some(Kind::Half),
        Dtype::I64 => Some(Kind::Int64),
        Dtype::U8 => Some(Kind::Uint8),
        _ => None,
    }
}

fn dtype_of(kind: Kind) -> Dtype {
    match kind {
        Kind::Double => Dtype::F64,
        Kind::Float => Dtype::F32,
        Kind::BFloat16 => Dtype::BF16,
        Kind::Half => Dtype::F16,
        Kind::Int64 => Dtype::I64,
        Kind::Uint8 => Dtype::U8,
        other => panic!("no file of ours holds a tensor of kind {other:?}"),
    }
}
