//! Each fused function of the shim equals its plain composition, forward and backward, in fp32 and
//! bf16, for sizes no vector width divides.

use tch::{Device, Kind, Tensor};
use trainer::shim::{self, Heads};

use crate::support::models::{assert_close, max_abs};

const EPS: f64 = 1e-6;

fn random(shape: &[i64], seed: u64) -> Tensor {
    let mut values = Tensor::empty(shape, (Kind::Float, Device::Cpu));
    shim::fill_normal(&mut values, 1.0, seed).unwrap();
    values
}

/// Outputs of `function`, and the gradients of its inputs under a loss with a different weight for
/// each element of every output.
fn pass(inputs: &[Tensor], function: impl Fn(&[Tensor]) -> Vec<Tensor>) -> Vec<Tensor> {
    let leaves: Vec<Tensor> =
        inputs.iter().map(|input| input.copy().set_requires_grad(true)).collect();
    let outputs = function(&leaves);
    let loss = outputs
        .iter()
        .zip(7..)
        .map(|(output, seed)| (output * random(&output.size(), seed)).sum(Kind::Float))
        .reduce(|sum, loss| sum + loss)
        .unwrap();
    loss.backward();
    outputs.iter().map(Tensor::detach).chain(leaves.iter().map(Tensor::grad)).collect()
}

/// `fused` on inputs of dtype `kind` (gains and weights stay fp32) against `plain` in fp32 on the
/// same numbers.
fn check(
    activations: &[Tensor],
    weights: &[Tensor],
    fused: impl Fn(&[Tensor]) -> Vec<Tensor>,
    plain: impl Fn(&[Tensor]) -> Vec<Tensor>,
) {
    for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 2e-2)] {
        let in_kind = activations.iter().map(|input| input.to_kind(kind));
        let inputs: Vec<Tensor> =
            in_kind.chain(weights.iter().map(Tensor::shallow_clone)).collect();
        let found = pass(&inputs, &fused);
        let inputs: Vec<Tensor> = inputs.iter().map(|input| input.to_kind(Kind::Float)).collect();
        let expected = pass(&inputs, &plain);
        assert_eq!(found.len(), expected.len());
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let name = format!("{kind:?}, output or gradient {index}");
            let found = found.to_kind(Kind::Float);
            assert_close(&name, &found, expected, tolerance * max_abs(expected).max(1.0));
        }
    }
}

fn plain_norm(x: &Tensor, gain: &Tensor) -> Tensor {
    let mean = x.square().mean_dim(-1, true, Kind::Float);
    x * (mean + EPS).rsqrt() * gain
}

#[test]
fn rms_norm_of_a_sum() {
    for width in [1, 37, 256] {
        let (x, delta, gain) =
            (random(&[3, 35, width], 1), random(&[3, 35, width], 2), random(&[width], 3));
        let inputs = [x, delta];
        check(
            &inputs,
            &[gain.shallow_clone()],
            |tensors| {
                let (sum, y) =
                    shim::add_rms_norm(&tensors[0], &tensors[1], &tensors[2], EPS).unwrap();
                vec![sum, y]
            },
            |tensors| {
                let sum = &tensors[0] + &tensors[1];
                vec![sum.shallow_clone(), plain_norm(&sum, &tensors[2])]
            },
        );
        check(
            &inputs[..1],
            &[gain],
            |tensors| vec![shim::rms_norm(&tensors[0], &tensors[1], EPS).unwrap()],
            |tensors| vec![plain_norm(&tensors[0], &tensors[1])],
        );
    }
}

#[test]
fn swiglu_also_where_the_gate_saturates() {
    let wide = Tensor::from_slice(&[-1e4f32, -90.0, -1.0, 0.0, 1.0, 90.0, 1e4]).repeat([6]);
    for gate_up in [random(&[2, 9, 74], 1), wide.view([3, 14])] {
        check(
            &[gate_up],
            &[],
            |tensors| vec![shim::swiglu(&tensors[0]).unwrap()],
            |tensors| {
                let halves = tensors[0].chunk(2, -1);
                vec![halves[0].silu() * &halves[1]]
            },
        );
    }
}

/// Three windows of `t` rows of queries, keys and values, and the tables of their rotation.
fn merged_rows(t: i64, heads: Heads) -> (Tensor, [Tensor; 2]) {
    let Heads { query, key_value, width } = heads;
    let angles = random(&[t, width / 2], 9);
    let qkv = random(&[3, t, (query + 2 * key_value) * width], 1);
    (qkv, [angles.cos(), angles.sin()])
}

/// Both halves of each head, rotated.
fn rotate(x: &Tensor, [cos, sin]: &[Tensor; 2]) -> Tensor {
    let halves = x.chunk(2, 3);
    let (low, high) = (&halves[0], &halves[1]);
    Tensor::cat(&[low * cos - high * sin, high * cos + low * sin], 3)
}

#[test]
fn heads_are_split_and_turned() {
    for (query, key_value, width) in [(4, 2, 6), (1, 1, 2), (4, 4, 64)] {
        let heads = Heads { query, key_value, width };
        let (qkv, tables) = merged_rows(5, heads);
        check(
            &[qkv],
            &[],
            |tensors| {
                let [cos, sin] = tables.each_ref().map(|table| table.to_kind(tensors[0].kind()));
                shim::split_rotate(&tensors[0], &cos, &sin, heads).unwrap().into()
            },
            |tensors| {
                let sizes = [query, key_value, key_value].map(|count| count * width);
                let parts = tensors[0].split_with_sizes(sizes, 2);
                let apart = parts.iter().map(|part| part.unflatten(2, [-1, width]).transpose(1, 2));
                let mut apart: Vec<Tensor> = apart.collect();
                let v = apart.pop().unwrap();
                apart.iter().map(|x| rotate(x, &tables)).chain([v]).collect()
            },
        );
    }
}

/// Causal attention of merged rows, step by step: heads separated and rotated, all scores computed,
/// those of later keys masked.
fn plain_attention(qkv: &Tensor, tables: &[Tensor; 2], heads: Heads) -> Tensor {
    let Heads { query, key_value, width } = heads;
    let sizes = [query, key_value, key_value].map(|count| count * width);
    let parts = qkv.split_with_sizes(sizes, 2);
    let apart = |part: &Tensor| part.unflatten(2, [-1, width]).transpose(1, 2);
    let turned = |part: &Tensor| rotate(&apart(part), tables);
    let for_queries = |x: Tensor| x.repeat_interleave_self_int(query / key_value, 1, None);
    let (q, k, v) = (turned(&parts[0]), turned(&parts[1]), apart(&parts[2]));
    let (k, v) = (for_queries(k), for_queries(v));
    let scores = q.matmul(&k.transpose(2, 3)) / (width as f64).sqrt();
    let later = scores.ones_like().triu(1).to_kind(Kind::Bool);
    let weights = scores.masked_fill(&later, f64::NEG_INFINITY).softmax(-1, Kind::Float);
    weights.matmul(&v).transpose(1, 2).flatten(2, 3)
}

#[test]
fn attention_of_merged_rows() {
    for (t, query, key_value, width) in [
        (1, 1, 1, 2),
        (5, 4, 2, 6),
        (48, 2, 2, 16),
        (49, 3, 1, 64),
        (97, 4, 4, 20),
        (200, 2, 1, 64),
        (33, 2, 2, 130),
    ] {
        let heads = Heads { query, key_value, width };
        let (qkv, tables) = merged_rows(t, heads);
        check(
            &[qkv],
            &[],
            |tensors| {
                let [cos, sin] = tables.each_ref().map(|table| table.to_kind(tensors[0].kind()));
                vec![shim::attention(&tensors[0], &cos, &sin, heads).unwrap()]
            },
            |tensors| vec![plain_attention(&tensors[0], &tables, heads)],
        );
    }
}

/// Scores of any size give weights, not infinities: e^score alone would overflow.
#[test]
fn attention_with_large_scores_stays_finite_and_nan_stays_nan() {
    let heads = Heads { query: 1, key_value: 1, width: 4 };
    for (kind, tolerance) in [(Kind::Float, 1e-1), (Kind::BFloat16, 2e2)] {
        let tables =
            [Tensor::ones([8, 2], (kind, Device::Cpu)), Tensor::zeros([8, 2], (kind, Device::Cpu))];
        let qkv = (random(&[1, 8, 12], 1) * 1e4).to_kind(kind);
        let [out, grad] = &pass(&[qkv.shallow_clone()], |tensors| {
            vec![shim::attention(&tensors[0], &tables[0], &tables[1], heads).unwrap()]
        })[..] else {
            panic!("an output and a gradient")
        };
        assert!(max_abs(out).is_finite() && max_abs(grad).is_finite());
        let [cos, sin] = tables.each_ref().map(|table| table.to_kind(Kind::Float));
        let expected = plain_attention(&qkv.to_kind(Kind::Float), &[cos, sin], heads);
        assert_close("weights", &out.to_kind(Kind::Float), &expected, tolerance);
        let _ = qkv.get(0).get(3).fill_(f64::NAN);
        let out = shim::attention(&qkv, &tables[0], &tables[1], heads).unwrap();
        assert!(out.get(0).narrow(0, 3, 5).isnan().all().int64_value(&[]) == 1);
    }
}

#[test]
fn attention_is_the_same_on_any_number_of_threads() {
    let heads = Heads { query: 4, key_value: 2, width: 16 };
    for kind in [Kind::Float, Kind::BFloat16] {
        let angles = random(&[70, 8], 9);
        let tables = [angles.cos(), angles.sin()].map(|table| table.to_kind(kind));
        let qkv = random(&[3, 70, 8 * 16], 1).to_kind(kind);
        let on = |threads: i32| {
            tch::set_num_threads(threads);
            let found = pass(&[qkv.shallow_clone()], |tensors| {
                vec![shim::attention(&tensors[0], &tables[0], &tables[1], heads).unwrap()]
            });
            tch::set_num_threads(1);
            found
        };
        for (one, many) in on(1).iter().zip(&on(3)) {
            assert!(one.equal(many));
        }
    }
}

/// Positions, input width and output width of products below and above the size from which another
/// library may compute them.
const PRODUCTS: [[i64; 3]; 2] = [[7, 24, 10], [70, 241, 130]];

#[test]
fn a_product_adds_to_the_gradient_that_its_leaf_has() {
    for [t, i, o] in PRODUCTS {
        let (x, w) = (random(&[3, t, i], 1), random(&[o, i], 2));
        check(
            &[x.shallow_clone()],
            &[w.shallow_clone()],
            |tensors| vec![shim::linear(&tensors[0], &tensors[1]).unwrap()],
            |tensors| vec![tensors[0].matmul(&tensors[1].tr())],
        );
        let leaf = w.copy().set_requires_grad(true);
        let sum = Tensor::ones([o, i], (Kind::Float, Device::Cpu));
        shim::set_grad(&leaf, &sum).unwrap();
        for _ in 0..2 {
            shim::linear(&x, &leaf).unwrap().sum(Kind::Float).backward();
        }
        let expected = x.flatten(0, 1).sum_dim_intlist(0, true, Kind::Float).repeat([o, 1]) * 2 + 1;
        assert_close("in the storage that was set", &sum, &expected, 1e-4);
    }
}

/// A single row, where oneDNN would add past the end of its memory.
#[test]
fn a_product_with_one_output_has_its_gradient() {
    let (x, w) = (random(&[2048, 2049], 1).tr(), random(&[1, 2048], 2));
    check(
        &[x],
        &[w],
        |tensors| vec![shim::linear(&tensors[0], &tensors[1]).unwrap()],
        |tensors| vec![tensors[0].matmul(&tensors[1].tr())],
    );
    let none = Tensor::empty([3, 0], (Kind::Float, Device::Cpu));
    let error = shim::linear(&none, &Tensor::empty([4, 0], (Kind::Float, Device::Cpu)));
    assert!(error.unwrap_err().to_string().contains("expected [.., i] and [o, i]"));
}

#[test]
fn a_product_is_that_of_libtorch_however_its_factors_lie() {
    for [t, i, o] in PRODUCTS {
        for kind in [Kind::Float, Kind::BFloat16] {
            let [a, b] = [([3 * t, i], 1), ([i, o], 2)]
                .map(|(size, seed)| random(&size, seed).to_kind(kind));
            let many = |x: &Tensor| Tensor::stack(&[x.shallow_clone(), x * -2], 0);
            let lying = |x: &Tensor| x.transpose(-2, -1).contiguous().transpose(-2, -1);
            for (a, b) in [(a.shallow_clone(), b.shallow_clone()), (many(&a), many(&b))] {
                let expected =
                    a.to_kind(Kind::Double).matmul(&b.to_kind(Kind::Double)).to_kind(Kind::Float);
                let tolerance = if kind == Kind::Float { 1e-6 } else { 1e-2 } * max_abs(&expected);
                for (a, b) in [
                    (a.shallow_clone(), b.shallow_clone()),
                    (lying(&a), b.shallow_clone()),
                    (a.shallow_clone(), lying(&b)),
                    (lying(&a), lying(&b)),
                ] {
                    let found = shim::product(&a, &b).unwrap().to_kind(Kind::Float);
                    assert_close(&format!("{kind:?} {:?}", a.size()), &found, &expected, tolerance);
                }
            }
        }
    }
    let error = shim::product(&random(&[2, 3], 1), &random(&[2, 3], 1)).unwrap_err().to_string();
    assert!(error.contains("a is [2, 3], b is [2, 3]; expected [n, i] and [i, o]"), "{error}");
}

#[test]
fn ignored_targets_count_for_nothing() {
    let (x, w) = (random(&[23, 24], 1), random(&[256, 24], 2));
    let targets = Tensor::from_slice(&(0..23).map(|row| row * 11 % 256).collect::<Vec<i64>>());
    for ignored_rows in [0, 1, 9, 22] {
        let targets = targets.copy();
        let _ = targets.narrow(0, 3.min(23 - ignored_rows), ignored_rows).fill_(-100);
        check(
            &[x.shallow_clone()],
            &[w.shallow_clone()],
            |tensors| {
                let y_nk = targets.unsqueeze(1);
                vec![shim::linear_cross_entropy(&tensors[0], &tensors[1], &y_nk, 8).unwrap()]
            },
            |tensors| {
                let logits = tensors[0].matmul(&tensors[1].tr());
                vec![logits.cross_entropy_loss::<Tensor>(
                    &targets,
                    None,
                    tch::Reduction::Mean,
                    -100,
                    0.0,
                )]
            },
        );
    }
    let w = w.set_requires_grad(true);
    let none = Tensor::full([23, 2], -100, (Kind::Int64, Device::Cpu));
    let loss = shim::linear_cross_entropy(&x, &w, &none, 8).unwrap();
    loss.backward();
    assert_eq!((loss.double_value(&[]), max_abs(&w.grad())), (0.0, 0.0));
}

#[test]
fn what_is_not_a_number_stays_none() {
    let w = random(&[256, 24], 2);
    let y_nk = Tensor::zeros([9, 1], (Kind::Int64, Device::Cpu));
    for kind in [Kind::Float, Kind::BFloat16] {
        let x = random(&[9, 24], 1).to_kind(kind);
        let _ = x.get(4).get(0).fill_(f64::NAN);
        let loss = shim::linear_cross_entropy(&x, &w, &y_nk, 8).unwrap();
        assert!(loss.double_value(&[]).is_nan());
        let gain = Tensor::ones([24], (Kind::Float, Device::Cpu));
        let normed = shim::rms_norm(&x, &gain, EPS).unwrap();
        assert!(normed.get(4).isnan().all().int64_value(&[]) == 1);
        assert!(normed.get(3).isfinite().all().int64_value(&[]) == 1);
        assert!(shim::swiglu(&x).unwrap().get(4).get(0).double_value(&[]).is_nan());
    }
}
