//! Numbers as people write and read them: `60_000_000_000`, `60e9`, `60B`, `1.5e6`.
//!
//! **Invariant:** a number is read exactly or refused; nothing is rounded.

/// Reads a count such as `60000000000`, `60_000_000_000`, `60e9`, `60B` or `1.5e6`; K, M, B and T
/// are powers of 1000.
pub fn parse_count(text: &str) -> Result<u64, String> {
    let refused = || {
        format!(
            "{text:?} is not a count; expected a whole number such as 60000000000, 60_000_000_000, \
             60e9 or 60B"
        )
    };
    let plain = text.replace('_', "");
    let suffix = [('K', 3), ('M', 6), ('B', 9), ('T', 12)].into_iter();
    let mut suffixed =
        suffix.filter_map(|(letter, exponent)| Some((plain.strip_suffix(letter)?, exponent)));
    let (mantissa, exponent) = match (suffixed.next(), plain.split_once(['e', 'E'])) {
        (Some(suffixed), _) => suffixed,
        (None, Some((mantissa, exponent))) => {
            (mantissa, exponent.parse::<u32>().map_err(|err| format!("{}: {err}", refused()))?)
        }
        (None, None) => (plain.as_str(), 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let fraction = fraction.trim_end_matches('0');
    let digits = format!("{whole}{fraction}");
    let shift = u32::try_from(fraction.len()).ok().and_then(|places| exponent.checked_sub(places));
    let all_digits = !whole.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let count = shift
        .filter(|_| all_digits)
        .and_then(|shift| digits.parse::<u64>().ok()?.checked_mul(10u64.checked_pow(shift)?));
    count.ok_or_else(refused)
}

/// The same for a count that must be positive.
pub fn parse_positive_count(text: &str) -> Result<u64, String> {
    match parse_count(text)? {
        0 => Err("it is 0; expected at least 1".to_owned()),
        count => Ok(count),
    }
}

/// Writes a count as a run file may hold it: `60_000_000_000`.
pub fn format_count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('_');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_exactly_or_refused() {
        for (text, expected) in [
            ("0", Some(0)),
            ("60e9", Some(60_000_000_000)),
            ("60_000_000_000", Some(60_000_000_000)),
            ("1.5e6", Some(1_500_000)),
            ("1.50e1", Some(15)),
            ("3.0", Some(3)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("2e19", None),
            ("1.25e1", None),
            ("0.5", None),
            ("", None),
            ("e9", None),
            (".5e1", None),
            ("-1", None),
            ("+1", None),
            ("1e-3", None),
            ("many", None),
            ("60B", Some(60_000_000_000)),
            ("1.5M", Some(1_500_000)),
            ("2K", Some(2000)),
            ("3T", Some(3_000_000_000_000)),
            ("B", None),
            ("6e3B", None),
            ("6b", None),
            ("6BB", None),
        ] {
            assert_eq!(parse_count(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn counts_are_written_in_groups_of_three() {
        for (count, expected) in
            [(0, "0"), (999, "999"), (1000, "1_000"), (60_000_000_000, "60_000_000_000")]
        {
            assert_eq!(format_count(count), expected);
            assert_eq!(parse_count(expected), Ok(count));
        }
    }
}
