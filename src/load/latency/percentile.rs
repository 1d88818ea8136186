//! A percentile that a user may choose, exact to its last decimal, and lists of them. Pure.
//!
//! A percentile is stored as a whole number of millionths of a percent. So two percentiles are
//! equal if they are the same number, a name is read as the percentile that it was printed for, and
//! [`Percentile::percent`] is the floating-point number that the decimal text denotes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Maximum number of decimals of a percentile. Of a billion samples, ten lie beyond the highest
/// one, 99.999999.
const DECIMALS: usize = 6;

/// One percent in millionths.
const PERCENT: u32 = 10_u32.pow(DECIMALS as u32);

/// The upper bound of all percentiles, in millionths of a percent.
const WHOLE: u32 = 100 * PERCENT;

/// Maximum number of percentiles in a list. Each one is a column of the printed table, which takes
/// some twenty characters with the 95 % interval: no window is wide enough for more than sixteen.
pub const LIST_MAX: usize = 16;

/// A percentile above 0 and below 100, with up to six decimals. In JSON it is a string: `"99.9"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Percentile(u32);

impl Percentile {
    /// The percentiles that are printed unless others are named: p50, p90, p99 and p99.9.
    pub const STANDARD: [Percentile; 4] = [
        Percentile(50 * PERCENT),
        Percentile(90 * PERCENT),
        Percentile(99 * PERCENT),
        Percentile(99 * PERCENT + 9 * PERCENT / 10),
    ];

    /// Returns the percentile in percent: the same number as the literal `99.9`. Both operands of
    /// the division are exact, so the quotient is the nearest number to the decimal one.
    pub fn percent(self) -> f64 {
        f64::from(self.0) / f64::from(PERCENT)
    }

    /// Returns the name of the percentile in JSON, which has no point: `p99_9`.
    pub fn key(self) -> String {
        self.to_string().replace('.', "_")
    }

    /// Returns the percentile in decimals, without zeros at the end: `99.9`.
    fn decimal(self) -> String {
        match (self.0 / PERCENT, self.0 % PERCENT) {
            (whole, 0) => whole.to_string(),
            (whole, rest) => {
                let digits = format!("{whole}.{rest:0DECIMALS$}");
                digits.trim_end_matches('0').to_string()
            }
        }
    }
}

/// Formats the name of the percentile: `p50`, `p99.9`.
impl fmt::Display for Percentile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("p{}", self.decimal()))
    }
}

impl FromStr for Percentile {
    type Err = String;

    /// Parses a number of percent such as `99.9`, or the name of a percentile such as `p99.9`.
    fn from_str(text: &str) -> Result<Percentile, String> {
        let refused = || {
            format!(
                "'{text}' is not a percentile: use a number above 0 and below 100, such as 99.9"
            )
        };
        let number = text.strip_prefix('p').unwrap_or(text);
        let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
        let is_number =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !is_number(decimals) {
            return Err(refused());
        }
        if decimals.len() > DECIMALS {
            return Err(format!(
                "'{text}' has more than {DECIMALS} decimals: use at most {DECIMALS}"
            ));
        }
        // A number that is too large for the type exceeds the bound.
        let millionths = format!("{whole}{decimals:0<DECIMALS$}").parse();
        match millionths.unwrap_or(u32::MAX) {
            millionths @ 1..WHOLE => Ok(Percentile(millionths)),
            _ => Err(refused()),
        }
    }
}

impl From<Percentile> for String {
    fn from(percentile: Percentile) -> String {
        percentile.decimal()
    }
}

impl TryFrom<String> for Percentile {
    type Error = String;

    fn try_from(text: String) -> Result<Percentile, String> {
        text.parse()
    }
}

/// Returns these percentiles and the standard ones, in ascending order.
pub fn with_standard(some: &[Percentile]) -> Vec<Percentile> {
    let mut all = [some, &Percentile::STANDARD].concat();
    all.sort_unstable();
    all.dedup();
    all
}

/// Parses a list of at most [`LIST_MAX`] percentiles, such as `50,90,99.9`. The result is in
/// ascending order, and a percentile that is listed twice is in it once.
pub fn parse_list(text: &str) -> Result<Vec<Percentile>, String> {
    let list = text
        .split(',')
        .map(|part| part.trim().parse::<Percentile>());
    let mut list = list.collect::<Result<Vec<_>, String>>()?;
    list.sort();
    list.dedup();
    match list.len() {
        count if count > LIST_MAX => Err(format!(
            "{count} percentiles are too many for a table: use at most {LIST_MAX}"
        )),
        _ => Ok(list),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_standard_percentiles_are_exact() {
        let standard = Percentile::STANDARD;
        assert_eq!(
            standard.map(Percentile::percent),
            [50.0, 90.0, 99.0, 99.9],
            "the same numbers as the literals"
        );
        assert_eq!(
            standard.map(|it| it.to_string()),
            ["p50", "p90", "p99", "p99.9"]
        );
        assert_eq!(
            standard.map(Percentile::key),
            ["p50", "p90", "p99", "p99_9"]
        );
        assert_eq!(parse_list("50,90,99,99.9"), Ok(standard.to_vec()));
        assert_eq!(format!("{:6}|", standard[0]), "p50   |");
    }

    #[test]
    fn a_percentile_has_several_forms_and_one_name() {
        for (text, name) in [
            ("50", "p50"),
            ("p50", "p50"),
            ("50.000000", "p50"),
            ("099.90", "p99.9"),
            ("p99.99", "p99.99"),
            ("0.000001", "p0.000001"),
            ("99.999999", "p99.999999"),
        ] {
            assert_eq!(text.parse::<Percentile>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn what_is_no_percentile_is_refused_in_one_line() {
        let outside = ["0", "0.0", "100", "100.0", "101", "99999999999", "-5"];
        let other = [
            "", "+5", "p", "pp50", "P50", ".5", "5.", "1e1", "50%", "9 9", "٣", "1.2.3",
        ];
        for bad in outside.iter().chain(&other) {
            let told = format!(
                "'{bad}' is not a percentile: use a number above 0 and below 100, such as 99.9"
            );
            assert_eq!(bad.parse::<Percentile>(), Err(told));
        }
        let told = "'99.1234567' has more than 6 decimals: use at most 6";
        assert_eq!("99.1234567".parse::<Percentile>(), Err(told.to_string()));
    }

    #[test]
    fn a_list_is_sorted_and_has_each_percentile_once() {
        let names = |text| {
            let list = parse_list(text).unwrap();
            list.iter().map(|it| it.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names("99.99, 50,p90,50.0"), ["p50", "p90", "p99.99"]);
        assert_eq!(names("99.9"), ["p99.9"]);
        for bad in ["", ",", "50,", "50,,90", "50;90", "50,100"] {
            assert!(parse_list(bad).is_err(), "{bad}");
        }
        let told = "'x' is not a percentile: use a number above 0 and below 100, such as 99.9";
        assert_eq!(parse_list("50,x"), Err(told.to_string()));
    }

    #[test]
    fn a_list_has_at_most_sixteen_percentiles() {
        let list = |count: u32| {
            let numbers = (1..=count).map(|number| number.to_string());
            numbers.collect::<Vec<_>>().join(",")
        };
        assert_eq!(parse_list(&list(16)).unwrap().len(), LIST_MAX);
        let again = format!("{},16", list(16));
        assert_eq!(parse_list(&again).unwrap().len(), LIST_MAX);
        let told = "17 percentiles are too many for a table: use at most 16";
        assert_eq!(parse_list(&list(17)), Err(told.to_string()));
    }

    proptest! {
        #[test]
        fn a_percentile_is_read_as_it_is_printed(millionths in 1..WHOLE) {
            let percentile = Percentile(millionths);
            let (name, number) = (percentile.to_string(), percentile.decimal());
            prop_assert_eq!(name.parse::<Percentile>(), Ok(percentile));
            prop_assert_eq!(number.parse::<Percentile>(), Ok(percentile));
            prop_assert_eq!(number.parse::<f64>(), Ok(percentile.percent()));
            let json = serde_json::to_string(&percentile).unwrap();
            prop_assert_eq!(serde_json::from_str::<Percentile>(&json).unwrap(), percentile);
            prop_assert_eq!(json, format!("\"{number}\""));
        }

        #[test]
        fn percentiles_have_the_order_of_their_numbers(one in 1..WHOLE, other in 1..WHOLE) {
            let (one, other) = (Percentile(one), Percentile(other));
            prop_assert_eq!(
                one.partial_cmp(&other),
                one.percent().partial_cmp(&other.percent())
            );
        }

        #[test]
        fn any_text_is_a_list_or_refused(text in r"[-p0-9., ]{0,20}|.{0,12}") {
            if let Ok(list) = parse_list(&text) {
                prop_assert!(list.is_sorted() && (1..=LIST_MAX).contains(&list.len()));
            }
        }
    }
}
