//! All parameters of a model in one flat tensor, and their gradients in another.
//!
//! An optimizer update, a norm, a zeroing or an all-reduce is then one call over contiguous memory.
//! Each parameter is a named leaf of autograd: a view of the master weights, whose gradient is the
//! same view of the flat gradient.
//!
//! **Invariant:** decayed parameters fill `0..decayed_elements` and the others all that follows;
//! the padding between parameters is zero in master weights, gradients and moments alike.

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
    /// Whether it follows the parameter before without padding, so that both are one matrix too;
    /// see [`Parameters::merged`].
    pub joined: bool,
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

    /// The fp32 master weight, as a leaf that requires a gradient.
    pub fn leaf(&self) -> &Tensor {
        &self.leaf
    }

    /// This parameter's part of a tensor laid out like the master weights, such as a moment.
    pub fn view_of(&self, flat: &Tensor) -> Tensor {
        flat.narrow(0, self.first_element, self.spec.elements()).view(self.spec.shape.as_slice())
    }
}

fn align(elements: i64) -> i64 {
    (elements + ALIGN_ELEMENTS - 1) / ALIGN_ELEMENTS * ALIGN_ELEMENTS
}

/// Elements of the flat storage of these parameters: of the decayed ones, which come first, and of
/// all.
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
    /// Storage for `specs`, all zero. The order of `specs` is kept among the decayed and among the
    /// others.
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

    /// The parameter of that Hugging Face name.
    pub fn get(&self, name: &str) -> Option<&Parameter> {
        self.list.iter().find(|parameter| parameter.name() == name)
    }

    /// Parameters that lie one after the other without padding, as one matrix: a leaf over the same
    /// master weights and gradients, with the rows of all of them.
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

    /// The gradients, flat, laid out like the master_weights.
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
