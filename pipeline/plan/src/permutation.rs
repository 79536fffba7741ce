//! Keyed permutations of `0..count`.
//!
//! A permutation is computed and never stored: O(1) in time and memory for any size, and
//! invertible. No index file has to be built, stored or lost. Start-up takes no time at 360B tokens
//! or at 15T. The inverse answers at which step a document is read.
//!
//! A Feistel network permutes the smallest power of two that holds `count`. An index that falls
//! outside is walked along its cycle until it falls inside (Black and Rogaway, "Ciphers with
//! Arbitrary Finite Domains", 2002). README.md explains the number of rounds.
//!
//! A *blocked* permutation keeps neighbours together, for media that read best in sequence: it
//! permutes groups of `group` indexes, and the indexes inside each group. The last group may be
//! smaller. It takes its place in the order like any other, and everything after it moves up.
//!
//! **Invariant:** for every key, `apply` is a bijection of `0..count`, `apply_all` does the same to
//! many at once, and `invert` is their inverse.

mod simd;

use std::sync::OnceLock;

use simd::LANES;
use siphasher::sip::SipHasher13;

/// The largest `count` of a permutation.
pub const COUNT_MAX: u64 = 1 << 62;

/// Below this many bits a network has few distinct round functions, so it takes more rounds.
const SMALL_BITS: u32 = 20;
const ROUNDS: u32 = 12;
const SMALL_ROUNDS: u32 = 32;
const _: () = assert!(SMALL_BITS <= 20, "a half of a network with a table has 10 bits at most");
/// Indexes [`Permutation::apply_all`] turns together.
const CHUNK: usize = 64;
/// From this many on, all lanes cost less than one index after the other.
const WORTH_LANES: usize = 3;
/// From this many on, a small network makes its table.
const WORTH_TABLE: usize = 32;

/// Indexes followed through a table together.
const TOGETHER: usize = 8;

/// The purpose of a permutation; another purpose or seed gives an unrelated permutation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Which blocks of the corpus the subset holds.
    Subset,
    /// The order within an epoch.
    Order {
        /// Counted from 0.
        epoch: u64,
        /// Phase switches earlier in the epoch.
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
        PermutationKey::of_material(&PermutationKey::material(seed, purpose))
    }

    /// The key for a purpose within the stream of one set, so that a set's order does not depend on
    /// the others.
    pub fn derive_for_set(seed: u64, set_name: &str, purpose: Purpose) -> PermutationKey {
        let material = PermutationKey::material(seed, purpose);
        PermutationKey::of_material(&format!("{material};set={set_name}"))
    }

    fn material(seed: u64, purpose: Purpose) -> String {
        match purpose {
            Purpose::Subset => format!("seed={seed};subset"),
            Purpose::Order { epoch, level } => format!("seed={seed};epoch={epoch};level={level}"),
        }
    }

    /// The key of the order inside a group of a blocked permutation; `self` is the groups' key.
    fn of_group(self, group_index: u64) -> PermutationKey {
        let hasher = SipHasher13::new_with_keys(self.first, self.second);
        let word =
            |number: u64| hasher.hash(&[group_index.to_le_bytes(), number.to_le_bytes()].concat());
        PermutationKey { first: word(0), second: word(1) }
    }

    fn of_material(material: &str) -> PermutationKey {
        let bytes = blake3::derive_key("patchmill plan permutation v1", material.as_bytes());
        let (words, _) = bytes.as_chunks::<8>();
        PermutationKey { first: u64::from_le_bytes(words[0]), second: u64::from_le_bytes(words[1]) }
    }
}

/// A permutation of `0..count`.
#[derive(Clone, Debug)]
pub struct Permutation {
    count: u64,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Identity,
    Network(Network),
    Blocked(Blocked),
}

#[derive(Clone, Debug)]
struct Network {
    hasher: SipHasher13,
    /// The same hash for several words at once.
    keys: simd::Keys,
    rounds: u32,
    /// The halves need not be of equal width: rounds change the left and the right half in turn.
    left_bits: u32,
    right_bits: u32,
    /// Every round's hashes of all values of a half, as far as their bits matter, for a network of
    /// few bits that is used often: 64 KiB at most.
    table: OnceLock<Vec<u16>>,
}

#[derive(Clone, Debug)]
struct Blocked {
    key: PermutationKey,
    /// Indexes in a group, except the last one.
    group: u64,
    groups: Box<Permutation>,
    /// Position of the last group in the order of groups, and how many indexes it has.
    last_place: u64,
    last_count: u64,
}

impl Permutation {
    /// The permutation that `key` selects among those of `0..count`.
    ///
    /// # Panics
    /// If `count` exceeds [`COUNT_MAX`].
    pub fn keyed(key: PermutationKey, count: u64) -> Permutation {
        let rounds = if bits(count) < SMALL_BITS { SMALL_ROUNDS } else { ROUNDS };
        Permutation::with_rounds(key, count, rounds)
    }

    /// The same with the caller's number of rounds, for the tests that show how many are needed.
    ///
    /// # Panics
    /// If `count` exceeds [`COUNT_MAX`].
    pub fn with_rounds(key: PermutationKey, count: u64, rounds: u32) -> Permutation {
        assert!(count <= COUNT_MAX, "a permutation of {count}; the most is {COUNT_MAX}");
        if count <= 1 {
            return Permutation::identity(count);
        }
        let bits = bits(count);
        let network = Network {
            hasher: SipHasher13::new_with_keys(key.first, key.second),
            keys: simd::Keys::new(key.first, key.second),
            rounds,
            left_bits: bits / 2,
            right_bits: bits - bits / 2,
            table: OnceLock::new(),
        };
        Permutation { count, kind: Kind::Network(network) }
    }

    /// The permutation that `key` selects among those of `0..count` that keep groups of `group`
    /// together.
    ///
    /// # Panics
    /// If `group` is 0 or `count` exceeds [`COUNT_MAX`].
    pub fn blocked(key: PermutationKey, count: u64, group: u64) -> Permutation {
        assert!(group > 0, "a group of no indexes");
        if group >= count {
            return Permutation::keyed(key.of_group(0), count);
        }
        let group_count = count.div_ceil(group);
        let groups = Box::new(Permutation::keyed(key, group_count));
        let last_place = groups.invert(group_count - 1);
        let last_count = count - (group_count - 1) * group;
        Permutation {
            count,
            kind: Kind::Blocked(Blocked { key, group, groups, last_place, last_count }),
        }
    }

    /// The permutation of `0..count` that leaves every index in place.
    pub fn identity(count: u64) -> Permutation {
        Permutation { count, kind: Kind::Identity }
    }

    /// How many numbers it permutes.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Where `index` goes.
    ///
    /// # Panics
    /// Unless `index < count`.
    pub fn apply(&self, index: u64) -> u64 {
        self.check(index);
        match &self.kind {
            Kind::Identity => index,
            Kind::Network(network) => self.walk(index, |place| network.encrypt(place)),
            Kind::Blocked(blocked) => blocked.apply(index),
        }
    }

    /// The index that goes to `index`.
    ///
    /// # Panics
    /// Unless `index < count`.
    pub fn invert(&self, index: u64) -> u64 {
        self.check(index);
        match &self.kind {
            Kind::Identity => index,
            Kind::Network(network) => self.walk(index, |place| network.decrypt(place)),
            Kind::Blocked(blocked) => blocked.invert(index),
        }
    }

    /// Replaces each of `indexes` by where it goes: the same as [`Permutation::apply`], several
    /// times as fast.
    ///
    /// # Panics
    /// Unless all are below `count`.
    pub fn apply_all(&self, indexes: &mut [u64]) {
        if let Kind::Network(network) = &self.kind {
            indexes.iter().for_each(|&index| self.check(index));
            for chunk in indexes.chunks_mut(CHUNK) {
                self.walk_all(network, chunk);
            }
        } else {
            indexes.iter_mut().for_each(|index| *index = self.apply(*index));
        }
    }

    /// Turns those still outside once more until all are inside; the last few one by one.
    fn walk_all(&self, network: &Network, places: &mut [u64]) {
        let mut open: [usize; CHUNK] = std::array::from_fn(|at| at);
        let mut open_count = places.len();
        let table = network.table(places.len());
        while open_count >= WORTH_LANES {
            let mut turned = [0; CHUNK];
            for (place, &at) in turned.iter_mut().zip(&open[..open_count]) {
                *place = places[at];
            }
            match table {
                Some(table) => network.encrypt_by_table(table, &mut turned[..open_count]),
                // Lanes without an index left turn a 0 that nobody takes.
                None => {
                    let (lanes, _) = turned.as_chunks_mut::<LANES>();
                    let lanes = &mut lanes[..open_count.div_ceil(LANES)];
                    lanes.iter_mut().for_each(|lanes| network.encrypt_lanes(lanes));
                }
            }
            let mut still_open = 0;
            for index in 0..open_count {
                let at = open[index];
                places[at] = turned[index];
                open[still_open] = at; // no further than what was read of it
                still_open += usize::from(turned[index] >= self.count);
            }
            open_count = still_open;
        }
        for &at in &open[..open_count] {
            places[at] = self.walk(places[at], |place| network.encrypt(place));
        }
    }

    fn check(&self, index: u64) {
        assert!(index < self.count, "index {index} of a permutation of {}", self.count);
    }

    fn walk(&self, index: u64, turn: impl Fn(u64) -> u64) -> u64 {
        let mut place = turn(index);
        while place >= self.count {
            place = turn(place);
        }
        place
    }
}

/// Bits of the smallest power of two that holds `count` of at least 2.
fn bits(count: u64) -> u32 {
    u64::BITS - count.saturating_sub(1).leading_zeros()
}

impl Blocked {
    fn apply(&self, index: u64) -> u64 {
        let last_first = self.last_place * self.group;
        let (place, within) = if index < last_first {
            (index / self.group, index % self.group)
        } else if index < last_first + self.last_count {
            (self.last_place, index - last_first)
        } else {
            let after = index - self.last_count;
            (after / self.group + 1, after % self.group)
        };
        let group_index = self.groups.apply(place);
        group_index * self.group + self.inside(group_index).apply(within)
    }

    fn invert(&self, index: u64) -> u64 {
        let group_index = index / self.group;
        let within = self.inside(group_index).invert(index % self.group);
        let place = self.groups.invert(group_index);
        if place <= self.last_place {
            place * self.group + within
        } else {
            (place - 1) * self.group + self.last_count + within
        }
    }

    /// The order inside a group.
    fn inside(&self, group_index: u64) -> Permutation {
        let is_last = group_index == self.groups.count() - 1;
        let count = if is_last { self.last_count } else { self.group };
        Permutation::keyed(self.key.of_group(group_index), count)
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

    /// The table, if the network can have one; it pays from some dozens of indexes on.
    fn table(&self, index_count: usize) -> Option<&[u16]> {
        if self.left_bits + self.right_bits >= SMALL_BITS || index_count < WORTH_TABLE {
            return None;
        }
        Some(self.table.get_or_init(|| {
            let values = 1u64 << self.right_bits; // the left half has no more
            let hash = |round: u32, half| match round.is_multiple_of(2) {
                true => self.hash(round, half) & mask(self.left_bits),
                false => self.hash(round, half) & mask(self.right_bits),
            };
            let all = (0..self.rounds).flat_map(|round| (0..values).map(move |half| (round, half)));
            // A half has 10 bits at most.
            all.map(|(round, half)| hash(round, half) as u16).collect()
        }))
    }

    /// [`Network::encrypt`] of each place, several side by side: a round waits for a look into the
    /// table, and their halves fit the registers.
    fn encrypt_by_table(&self, table: &[u16], places: &mut [u64]) {
        let (together, rest) = places.as_chunks_mut::<TOGETHER>();
        together.iter_mut().for_each(|places| self.encrypt_together(table, places));
        rest.iter_mut().for_each(|place| {
            let mut alone = [*place];
            self.encrypt_together(table, &mut alone);
            *place = alone[0];
        });
    }

    fn encrypt_together<const COUNT: usize>(&self, table: &[u16], places: &mut [u64; COUNT]) {
        let mut lefts = places.map(|place| (place >> self.right_bits) as usize);
        let mut rights = places.map(|place| (place & mask(self.right_bits)) as usize);
        let row_values = 1 << self.right_bits;
        let change = |changed: &mut [usize; COUNT], hashed: &[usize; COUNT], row: &[u16]| {
            for (half, &hashed) in changed.iter_mut().zip(hashed) {
                *half ^= usize::from(row[hashed]);
            }
        };
        let pairs = table.chunks_exact(2 * row_values);
        let last = pairs.remainder(); // of an odd number of rounds
        for rows in pairs {
            let (even, odd) = rows.split_at(row_values);
            change(&mut lefts, &rights, even);
            change(&mut rights, &lefts, odd);
        }
        if !last.is_empty() {
            change(&mut lefts, &rights, last);
        }
        *places = std::array::from_fn(|at| self.join((lefts[at] as u64, rights[at] as u64)));
    }

    /// [`Network::encrypt`] of each lane.
    fn encrypt_lanes(&self, lanes: &mut [u64; LANES]) {
        let mut left = lanes.map(|index| index >> self.right_bits);
        let mut right = lanes.map(|index| index & mask(self.right_bits));
        simd::turn(
            &self.keys,
            self.rounds,
            (&mut left, mask(self.left_bits)),
            (&mut right, mask(self.right_bits)),
        );
        *lanes = std::array::from_fn(|lane| self.join((left[lane], right[lane])));
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
