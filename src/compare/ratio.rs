//! The ratio of two sets of values, with its 95 % interval. Pure.
//!
//! Each value is that of one run. The estimate is the median of the ratios of all pairs of a run
//! of B and a run of A (Hodges and Lehmann, on logarithms). The ends of the interval are two of
//! these ratios, chosen by rank from the distribution of the Mann-Whitney statistic: if the sets
//! differ by a factor alone, whatever the shape of their distribution, an interval misses the
//! factor in at most one of twenty comparisons. If one set also varies more than the other, that is
//! seven of a hundred at equal numbers of runs; but more where the smaller set varies more.
//!
//! Invariants: `low <= estimate <= high`. Exchanging A and B inverts all three. Equal values count
//! on both sides, which widens the interval.

/// The number of runs in the smaller set up to which the distribution of the statistic is computed
/// exactly. Above it, the normal distribution is as good.
const EXACT_MOST: usize = 60;

/// The inverse of the error rate of one end: 2.5 %.
const ONE_END: f64 = 40.0;

/// The standard score of one end of a 95 % interval.
const SCORE: f64 = 1.959_963_984_540_054;

/// The ratio of B to A and its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// The estimate.
    pub estimate: f64,
    /// The lower end of the interval.
    pub low: f64,
    /// The upper end of the interval.
    pub high: f64,
}

/// Returns the ratio of the values of B to those of A, all above 0. `None`: there are too few for
/// an interval at 95 %.
pub fn ratio(a: &[f64], b: &[f64]) -> Option<Ratio> {
    let rank = rank(a.len(), b.len())?;
    let pairs = b.iter().flat_map(|b| a.iter().map(move |a| b / a));
    let mut ratios: Vec<f64> = pairs.collect();
    ratios.sort_unstable_by(f64::total_cmp);
    Some(Ratio {
        estimate: middle(&ratios, |low, high| low.sqrt() * high.sqrt())?,
        low: *ratios.get(rank - 1)?,
        high: *ratios.get(ratios.len() - rank)?,
    })
}

/// Returns the median of values; `None` when there are none.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    middle(&sorted, f64::midpoint)
}

/// Returns the middle of sorted values; `between` computes it from the middle two of an even
/// number.
fn middle(sorted: &[f64], between: impl Fn(f64, f64) -> f64) -> Option<f64> {
    let (low, high) = (sorted.len().checked_sub(1)? / 2, sorted.len() / 2);
    let (low, high) = (*sorted.get(low)?, *sorted.get(high)?);
    Some(if low == high { low } else { between(low, high) })
}

/// Returns the rank, counted from 1, of the lower end among the sorted ratios of two sets with
/// these numbers of runs; that of the upper end is the same from above. `None`: even the smallest
/// and the greatest ratio enclose too little.
fn rank(one: usize, other: usize) -> Option<usize> {
    let (fewer, more) = (one.min(other), one.max(other));
    let rank = match fewer {
        0 => 0,
        1..=EXACT_MOST => exact_rank(fewer, more),
        _ => normal_rank(fewer, more),
    };
    (rank > 0).then_some(rank)
}

/// Returns the greatest rank whose probability of being too high is at most 2.5 %.
///
/// The number of ratios below the true one has the distribution of the Mann-Whitney statistic: the
/// number of orders of the runs in which it is u is a coefficient of the Gaussian binomial
/// polynomial, the product of (1 - q^(more + i)) / (1 - q^i).
fn exact_rank(fewer: usize, more: usize) -> usize {
    let mut orders = vec![0.0; fewer * more / 2 + 1];
    let mut all = 1.0;
    orders[0] = 1.0;
    for i in 1..=fewer {
        for u in (more + i..orders.len()).rev() {
            orders[u] -= orders[u - more - i];
        }
        for u in i..orders.len() {
            orders[u] += orders[u - i];
        }
        all *= (more + i) as f64 / i as f64;
    }
    // The product is rounded; the number of orders is whole.
    let all = all.round();
    let mut below = 0.0;
    let few = orders.iter().take_while(|orders| {
        below += **orders;
        below * ONE_END <= all
    });
    few.count()
}

fn normal_rank(fewer: usize, more: usize) -> usize {
    let pairs = fewer as f64 * more as f64;
    let deviation = (pairs * (fewer + more + 1) as f64 / 12.0).sqrt();
    // Half a step: the statistic is a whole number.
    (pairs / 2.0 + 0.5 - SCORE * deviation) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns the values of the Mann-Whitney statistic in all orders of the runs.
    fn statistics(n: u32, m: u32) -> Vec<usize> {
        let orders = 0_u32..1 << (n + m);
        let orders = orders.filter(|order| order.count_ones() == n);
        let statistic = |order: u32| {
            let mut ones = 0;
            let mut below = 0;
            for place in 0..n + m {
                match order >> place & 1 {
                    1 => ones += 1,
                    _ => below += ones,
                }
            }
            below
        };
        orders.map(statistic).collect()
    }

    #[test]
    fn ranks_are_those_of_all_orders() {
        for n in 1..=6 {
            for m in 1..=6 {
                let all = statistics(n, m);
                let misses = |rank: usize| all.iter().filter(|below| **below < rank).count();
                let fits = |rank: &usize| misses(*rank) * 40 <= all.len();
                let expected = (1..=all.len()).take_while(fits).last();
                assert_eq!(rank(n as usize, m as usize), expected, "{n} against {m}");
            }
        }
    }

    #[test]
    fn ranks_are_those_of_the_tables() {
        // Critical values of the Mann-Whitney test, two-sided at 5 %, plus 1.
        for (n, m, critical) in [
            (4, 4, 0),
            (3, 5, 0),
            (5, 5, 2),
            (10, 10, 23),
            (15, 20, 90),
            (20, 20, 127),
        ] {
            assert_eq!(rank(n, m), Some(critical + 1), "{n} against {m}");
            assert_eq!(rank(m, n), Some(critical + 1), "{m} against {n}");
        }
        for (n, m) in [(0, 9), (1, 1), (3, 3), (3, 4), (2, 7), (1, 38)] {
            assert_eq!(rank(n, m), None, "{n} against {m}");
        }
        assert_eq!(rank(1, 39), Some(1));
    }

    #[test]
    fn the_normal_distribution_continues_the_exact_one() {
        for n in 40..=EXACT_MOST {
            let (exact, normal) = (exact_rank(n, n), normal_rank(n, n));
            assert!(exact.abs_diff(normal) <= 1, "{n}: {exact}, {normal}");
        }
        assert!(rank(61, 5000) > rank(60, 5000));
    }

    #[test]
    fn sets_that_do_not_overlap_differ() {
        let found = ratio(&[100.0, 101.0, 99.0, 102.0], &[110.0, 111.0, 109.0, 112.0]).unwrap();
        assert_eq!((found.low, found.high), (109.0 / 102.0, 112.0 / 99.0));
        assert!((found.estimate - 1.1).abs() < 0.005, "{found:?}");
        assert_eq!(ratio(&[100.0; 3], &[200.0; 3]), None);
        assert_eq!(ratio(&[], &[]), None);
        let same = ratio(&[7.0; 5], &[7.0; 5]).unwrap();
        assert_eq!((same.low, same.estimate, same.high), (1.0, 1.0, 1.0));
    }

    #[test]
    fn a_median_is_between_the_middle_two() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[4.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    fn close(one: f64, other: f64) -> bool {
        (one / other - 1.0).abs() < 1e-9
    }

    fn values() -> impl Strategy<Value = Vec<f64>> {
        // Few different values, so that some are equal.
        let value = prop_oneof![1e-6..1e9, (1..6_u8).prop_map(f64::from)];
        prop::collection::vec(value, 4..12)
    }

    proptest! {
        #[test]
        fn exchanging_the_sets_inverts_the_ratio(a in values(), b in values()) {
            let (to, from) = (ratio(&a, &b).unwrap(), ratio(&b, &a).unwrap());
            prop_assert!(close(to.estimate * from.estimate, 1.0));
            prop_assert!(close(to.low * from.high, 1.0));
            prop_assert!(close(to.high * from.low, 1.0));
            prop_assert!(to.low <= to.estimate && to.estimate <= to.high);
        }

        #[test]
        fn a_unit_does_not_matter(a in values(), b in values(), unit in 1e-3..1e3) {
            let scaled = |values: &[f64], unit: f64| {
                values.iter().map(|value| value * unit).collect::<Vec<_>>()
            };
            let plain = ratio(&a, &b).unwrap();
            let both = ratio(&scaled(&a, unit), &scaled(&b, unit)).unwrap();
            let one = ratio(&a, &scaled(&b, unit)).unwrap();
            for of in [|it: Ratio| it.low, |it: Ratio| it.estimate, |it: Ratio| it.high] {
                prop_assert!(close(of(plain), of(both)));
                prop_assert!(close(of(plain) * unit, of(one)));
            }
        }

        #[test]
        fn a_greater_value_of_b_lowers_nothing(
            a in values(),
            b in values(),
            place in any::<prop::sample::Index>(),
            more in 1.0..10.0,
        ) {
            let before = ratio(&a, &b).unwrap();
            let mut b = b;
            let place = place.index(b.len());
            b[place] *= more;
            let after = ratio(&a, &b).unwrap();
            prop_assert!(after.low >= before.low && after.high >= before.high);
            prop_assert!(after.estimate >= before.estimate * (1.0 - 1e-12));
        }

        #[test]
        fn the_order_of_the_runs_does_not_matter(a in values(), b in values()) {
            let reversed = |values: &[f64]| values.iter().rev().copied().collect::<Vec<_>>();
            prop_assert_eq!(ratio(&a, &b), ratio(&reversed(&a), &reversed(&b)));
        }
    }
}
