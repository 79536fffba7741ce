//! Keyed permutations of `0..count` that are computed and never stored.
//!
//! A Feistel network permutes the smallest power of two that holds `count`; indexes that fall outside
//! are walked on along their cycle until they fall inside (Black and Rogaway, "Ciphers with Arbitrary
//! Finite Domains", 2002). Time and memory do not depend on `count`.
//!
//! **Invariant:** for every key, `apply` is a bijection of `0..count` and `invert` is its inverse.

use siphasher::sip::SipHasher13;

/// The largest `count` of a permutation.
pub const COUNT_MAX: u64 = 1 << 62;

/// Below this many bits a network has few distinct round functions, so it takes more rounds.
const SMALL_BITS: u32 = 20;
const ROUNDS: u32 = 12;
const SMALL_ROUNDS: u32 = 32;

/// What a permutation is for; another purpose or seed gives an unrelated permutation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Which blocks of the corpus the subset holds.
    Subset,
    /// The order within an epoch.
    Order {
        /// 0-based.
        epoch: u64,
        /// How many switches of phase the epoch has had before.
        level: u64,
    },
}

/// Selects one permutation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PermutationKey {
    first: u64,
    second: u64,
}

impl PermutationKey {
    /// The key for a purpose under the run's seed.
    pub fn derive(seed: u64, purpose: Purpose) -> PermutationKey {
        let material = match purpose {
            Purpose::Subset => format!("seed={seed};subset"),
            Purpose::Order { epoch, level } => format!("seed={seed};epoch={epoch};level={level}"),
        };
        let bytes = blake3::derive_key("patchmill plan permutation v1", material.as_bytes());
        let (words, _) = bytes.as_chunks::<8>();
        PermutationKey { first: u64::from_le_bytes(words[0]), second: u64::from_le_bytes(words[1]) }
    }
}

/// A permutation of `0..count`.
#[derive(Clone, Debug)]
pub struct Permutation {
    count: u64,
    network: Option<Network>,
}

#[derive(Clone, Debug)]
struct Network {
    hasher: SipHasher13,
    rounds: u32,
    /// The halves need not be of equal width: rounds change the left and the right half in turn.
    left_bits: u32,
    right_bits: u32,
}

impl Permutation {
    /// The permutation that `key` selects among those of `0..count`.
    ///
    /// # Panics
    /// If `count` exceeds [`COUNT_MAX`].
    pub fn keyed(key: PermutationKey, count: u64) -> Permutation {
        assert!(count <= COUNT_MAX, "a permutation of {count}; the most is {COUNT_MAX}");
        if count <= 1 {
            return Permutation::identity(count);
        }
        let bits = u64::BITS - (count - 1).leading_zeros();
        let network = Network {
            hasher: SipHasher13::new_with_keys(key.first, key.second),
            rounds: if bits < SMALL_BITS { SMALL_ROUNDS } else { ROUNDS },
            left_bits: bits / 2,
            right_bits: bits - bits / 2,
        };
        Permutation { count, network: Some(network) }
    }

    /// The permutation of `0..count` that leaves everything where it is.
    pub fn identity(count: u64) -> Permutation {
        Permutation { count, network: None }
    }

    /// How many numbers are permuted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Where `index` goes.
    ///
    /// # Panics
    /// Unless `index < count`.
    pub fn apply(&self, index: u64) -> u64 {
        self.walk(index, Network::encrypt)
    }

    /// What goes to `index`.
    ///
    /// # Panics
    /// Unless `index < count`.
    pub fn invert(&self, index: u64) -> u64 {
        self.walk(index, Network::decrypt)
    }

    fn walk(&self, index: u64, turn: fn(&Network, u64) -> u64) -> u64 {
        assert!(index < self.count, "index {index} of a permutation of {}", self.count);
        let Some(network) = &self.network else { return index };
        let mut place = turn(network, index);
        while place >= self.count {
            place = turn(network, place);
        }
        place
    }
}

impl Network {
    fn encrypt(&self, index: u64) -> u64 {
        let mut halves = self.split(index);
        for round in 0..self.rounds {
            self.turn(round, &mut halves);
        }
        self.join(halves)
    }

    fn decrypt(&self, index: u64) -> u64 {
        let mut halves = self.split(index);
        for round in (0..self.rounds).rev() {
            self.turn(round, &mut halves); // a round is its own inverse
        }
        self.join(halves)
    }

    fn turn(&self, round: u32, (left, right): &mut (u64, u64)) {
        if round.is_multiple_of(2) {
            *left ^= self.hash(round, *right) & mask(self.left_bits);
        } else {
            *right ^= self.hash(round, *left) & mask(self.right_bits);
        }
    }

    /// A half has at most 31 bits, so round and half fit into one word.
    fn hash(&self, round: u32, half: u64) -> u64 {
        self.hasher.hash(&(u64::from(round) << 32 | half).to_le_bytes())
    }

    fn split(&self, index: u64) -> (u64, u64) {
        (index >> self.right_bits, index & mask(self.right_bits))
    }

    fn join(&self, (left, right): (u64, u64)) -> u64 {
        left << self.right_bits | right
    }
}

fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}
