//! All parameters of a model in one flat tensor, and their gradients in another.
//!
//! An optimizer update, a norm, a zeroing or an all-reduce is then one call over contiguous memory. Each parameter is a
//! named leaf of autograd: a view of the masters, whose gradient is the same view of the flat gradient.
//!
//! **Invariant:** decayed parameters fill `0..decayed_elements` and the others all that follows; the padding between
//! parameters is zero in masters, gradients and moments alike.

use tch::{Device, Kind, Tensor};

use crate::shim::{self, ShimError};

/// Parameters start at multiples of this many elements (256 bytes), for vector loads.
const ALIGN_ELEMENTS: i64 = 64;

/// What a parameter is, before storage exists for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterSpec {
    /// Hugging Face name.
    pub name: String,
    /// Shape, in elements.
    pub shape: Vec<i64>,
    /// Whether weight decay applies: matrices, embedding and head, not norm gains.
    pub decayed: bool,
}

impl ParameterSpec {
    fn elements(&self) -> i64 {
        self.shape.iter().product()
    }
}

/// A parameter and its place in flat storage.
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

    /// The fp32 master, as a leaf that requires a gradient.
    pub fn leaf(&self) -> &Tensor {
        &self.leaf
    }

    /// This parameter's part of a tensor laid out like the masters, such as a moment.
    pub fn view_of(&self, flat: &Tensor) -> Tensor {
        flat.narrow(0, self.first_element, self.spec.elements()).view(self.spec.shape.as_slice())
    }
}

/// The parameters of a model; see the module.
#[derive(Debug)]
pub struct Parameters {
    list: Vec<Parameter>,
    masters: Tensor,
    gradients: Tensor,
    decayed_elements: i64,
}

impl Parameters {
    /// Storage for `specs`, all zero. The order of `specs` is kept among the decayed and among the others.
    pub fn new(specs: Vec<ParameterSpec>, device: Device) -> Result<Parameters, ShimError> {
        let (decayed, others): (Vec<_>, Vec<_>) = specs.into_iter().partition(|spec| spec.decayed);
        let aligned = |spec: &ParameterSpec| {
            let padding = (ALIGN_ELEMENTS - spec.elements() % ALIGN_ELEMENTS) % ALIGN_ELEMENTS;
            spec.elements() + padding
        };
        let decayed_elements = decayed.iter().map(aligned).sum();
        let flat_elements = decayed_elements + others.iter().map(aligned).sum::<i64>();
        let zeros = || {
            Tensor::f_zeros([flat_elements], (Kind::Float, device)).map_err(|err| ShimError {
                operation: "allocate parameters",
                message: err.to_string(),
            })
        };
        let (masters, gradients) = (zeros()?, zeros()?);

        let mut list = Vec::with_capacity(decayed.len() + others.len());
        let mut first_element = 0;
        for spec in decayed.into_iter().chain(others) {
            let elements = aligned(&spec);
            let mut parameter = Parameter { spec, first_element, leaf: Tensor::new() };
            parameter.leaf = parameter.view_of(&masters).set_requires_grad(true);
            shim::set_grad(&parameter.leaf, &parameter.view_of(&gradients))?;
            list.push(parameter);
            first_element += elements;
        }
        Ok(Parameters { list, masters, gradients, decayed_elements })
    }

    /// Every parameter, in storage order.
    pub fn iter(&self) -> impl Iterator<Item = &Parameter> {
        self.list.iter()
    }

    /// The parameter of that Hugging Face name.
    pub fn get(&self, name: &str) -> Option<&Parameter> {
        self.list.iter().find(|parameter| parameter.name() == name)
    }

    /// The fp32 masters, flat.
    pub fn masters(&self) -> &Tensor {
        &self.masters
    }

    /// The gradients, flat, laid out like the masters.
    pub fn gradients(&self) -> &Tensor {
        &self.gradients
    }

    /// Leading elements of flat storage to which weight decay applies.
    pub fn decayed_elements(&self) -> i64 {
        self.decayed_elements
    }

    /// Scalars that are trained, padding not counted.
    pub fn scalar_count(&self) -> u64 {
        let elements: i64 = self.list.iter().map(|parameter| parameter.spec.elements()).sum();
        u64::try_from(elements).expect("a count is not negative")
    }

    /// Zeroes all gradients.
    pub fn zero_gradients(&self) {
        let _ = self.gradients.shallow_clone().zero_();
    }
}
