//! All fp32 master weights are one tensor, and all gradients another. Parameters are views with
//! their Hugging Face names. Decayed ones come first, so AdamW is two fused calls, clipping is one
//! norm, and a checkpoint is a loop over views.
//!
//! Zeroing and all-reduce are also single calls over contiguous memory. Each parameter is a named
//! leaf of autograd: a view of the master weights, whose gradient is the same view of the flat
//! gradient.
//!
//! **Invariant:** decayed parameters fill `0..decayed_elements` and the others the rest; the
//! padding between parameters is zero in master weights, gradients and moments alike.

use tch::{Device, Kind, Tensor};

use crate::shim::{self, ShimError};

/// Parameters start at multiples of this many elements (256 bytes), for vector loads.
const ALIGN_ELEMENTS: i64 = 64;

/// A parameter before its storage exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterSpec {
    /// Hugging Face name.
    pub name: String,
    /// Shape, in elements.
    pub shape: Vec<i64>,
    /// Whether weight decay applies: matrices, embedding and head, not norm gains.
    pub decayed: bool,
    /// Whether it follows the previous parameter without padding, so both together also form one
    /// matrix; see [`Parameters::merged`].
    pub joined: bool,
}

impl ParameterSpec {
    fn elements(&self) -> i64 {
        self.shape.iter().product()
    }
}

/// A parameter and its position in flat storage.
#[derive(Debug)]
pub struct Parameter {
    spec: ParameterSpec,
    first_element: i64,
    leaf: Tensor,
}

impl Parameter {
    /// Hugging Face name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Shape, in elements.
    pub fn shape(&self) -> &[i64] {
        &self.spec.shape
    }

    /// The fp32 master weight, as a leaf that requires a gradient.
    pub fn leaf(&self) -> &Tensor {
        &self.leaf
    }

    /// This parameter's part of a tensor laid out like the master weights, for example a moment.
    pub fn view_of(&self, flat: &Tensor) -> Tensor {
        flat.narrow(0, self.first_element, self.spec.elements()).view(self.spec.shape.as_slice())
    }
}

fn align(elements: i64) -> i64 {
    (elements + ALIGN_ELEMENTS - 1) / ALIGN_ELEMENTS * ALIGN_ELEMENTS
}

/// The number of elements in the flat storage of these parameters: those of the decayed ones, which
/// come first, and the total.
pub(crate) fn storage(specs: &[ParameterSpec]) -> (i64, i64) {
    let end = |first: i64, decayed: bool| {
        let specs = specs.iter().filter(|spec| spec.decayed == decayed);
        align(specs.fold(first, |end, spec| {
            if spec.joined { end + spec.elements() } else { align(end) + spec.elements() }
        }))
    };
    let decayed_elements = end(0, true);
    (decayed_elements, end(decayed_elements, false))
}

/// The parameters of a model; see the module.
#[derive(Debug)]
pub struct Parameters {
    list: Vec<Parameter>,
    master_weights: Tensor,
    gradients: Tensor,
    decayed_elements: i64,
}

impl Parameters {
    /// Allocates storage for `specs`, all zero. Decayed parameters keep their order among
    /// themselves, and so do the others.
    pub fn new(specs: Vec<ParameterSpec>, device: Device) -> Result<Parameters, ShimError> {
        let (decayed_elements, flat_elements) = storage(&specs);
        let (decayed, others): (Vec<_>, Vec<_>) = specs.into_iter().partition(|spec| spec.decayed);
        let zeros = || {
            Tensor::f_zeros([flat_elements], (Kind::Float, device))
                .map_err(|err| ShimError::of("allocate parameters", &err))
        };
        let (master_weights, gradients) = (zeros()?, zeros()?);

        let mut list = Vec::with_capacity(decayed.len() + others.len());
        let mut end_element = 0;
        for spec in decayed.into_iter().chain(others) {
            let first_element = if spec.joined { end_element } else { align(end_element) };
            end_element = first_element + spec.elements();
            let mut parameter = Parameter { spec, first_element, leaf: Tensor::new() };
            parameter.leaf = parameter.view_of(&master_weights).set_requires_grad(true);
            shim::set_grad(&parameter.leaf, &parameter.view_of(&gradients))?;
            list.push(parameter);
        }
        Ok(Parameters { list, master_weights, gradients, decayed_elements })
    }

    /// Every parameter, in storage order.
    pub fn iter(&self) -> impl Iterator<Item = &Parameter> {
        self.list.iter()
    }

    /// The parameter with this Hugging Face name.
    pub fn get(&self, name: &str) -> Option<&Parameter> {
        self.list.iter().find(|parameter| parameter.name() == name)
    }

    /// Adjacent parameters without padding as one matrix: a leaf over the same master weights and
    /// gradients, with the rows of all of them.
    pub fn merged(&self, names: &[String]) -> Result<Tensor, ShimError> {
        let start = self
            .list
            .iter()
            .position(|parameter| Some(parameter.name()) == names.first().map(String::as_str));
        let start = start.expect("the parameters exist");
        let parts = &self.list[start..start + names.len()];
        let columns = parts[0].spec.shape[1];
        for (index, (part, name)) in parts.iter().zip(names).enumerate() {
            assert!(
                part.name() == name
                    && part.spec.shape[1] == columns
                    && (index == 0 || part.spec.joined),
                "{name} does not continue the matrix before it"
            );
        }
        let rows: i64 = parts.iter().map(|part| part.spec.shape[0]).sum();
        let view = |flat: &Tensor| {
            flat.narrow(0, parts[0].first_element, rows * columns).view([rows, columns])
        };
        let leaf = view(&self.master_weights).set_requires_grad(true);
        shim::set_grad(&leaf, &view(&self.gradients))?;
        Ok(leaf)
    }

    /// The fp32 master weights, flat.
    pub fn masters(&self) -> &Tensor {
        &self.master_weights
    }

    /// The gradients, flat, laid out like the master weights.
    pub fn gradients(&self) -> &Tensor {
        &self.gradients
    }

    /// The number of leading elements of flat storage with weight decay.
    pub fn decayed_elements(&self) -> i64 {
        self.decayed_elements
    }

    /// The number of trained scalars, without padding.
    pub fn scalar_count(&self) -> u64 {
        let elements: i64 = self.list.iter().map(|parameter| parameter.spec.elements()).sum();
        u64::try_from(elements).expect("a count is not negative")
    }

    /// Zeroes all gradients.
    pub fn zero_gradients(&self) {
        let _ = self.gradients.shallow_clone().zero_();
    }
}
