//! Dates as Java's older classes have them (`java.sql.Date`, `java.sql.Timestamp`), through which Debezium reads those of arrays and
//! snapshots: the calendar is Julian up to 1582-10-04, and a date that is taken apart has a year without its era.

use super::calendar::{DAY, Moment, civil_from_days, days_from_civil};

/// The first day of the Gregorian calendar; the Julian one's last is ten days of the date before it.
const FIRST_GREGORIAN: (i64, i64, i64) = (1582, 10, 15);
/// The dates between the calendars, which neither has.
const GAP: std::ops::RangeInclusive<(i64, i64, i64)> = (1582, 10, 5)..=(1582, 10, 14);
/// Days from the Julian 0000-03-01 to 1970-01-01.
const JULIAN_EPOCH: i64 = 719_470;

/// Days since 1970-01-01 of a date in the Julian calendar, whose year is astronomical.
const fn days_from_julian(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year.div_euclid(4) * 1_461 + year.rem_euclid(4) * 365 + day_of_year - JULIAN_EPOCH
}

/// The day that the older classes take a day for, by its year, month and day.
fn reread(days: i64) -> i64 {
    let date @ (year, month, day) = civil_from_days(days);
    if date < FIRST_GREGORIAN { days_from_julian(year, month, day) } else { days }
}

/// The day that is left of one when the older classes take it apart; `None` where there is none, as of a 29 February of 5 BC.
pub(super) fn local(days: i64) -> Option<i64> {
    let date @ (year, month, day) = civil_from_days(days);
    if year > 0 {
        return Some(if GAP.contains(&date) { reread(days) } else { days });
    }
    let without_era = (1 - year, month, day);
    let days = days_from_civil(without_era.0, month, day);
    (civil_from_days(days) == without_era).then_some(days)
}

/// The moment that is left of one at UTC, in the same way.
pub(super) fn local_moment(moment: Moment) -> Option<Moment> {
    Some(on_day(local(moment.seconds.div_euclid(DAY))?, moment))
}

/// The moment that the older classes take one for.
pub(super) fn reread_moment(moment: Moment) -> Moment {
    on_day(reread(moment.seconds.div_euclid(DAY)), moment)
}

/// The same time of another day.
const fn on_day(days: i64, Moment { seconds, micros }: Moment) -> Moment {
    Moment { seconds: days * DAY + seconds.rem_euclid(DAY), micros }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calendars_meet_in_october_1582() {
        assert_eq!(days_from_julian(1582, 10, 4) + 1, days_from_civil(1582, 10, 15));
        assert_eq!(reread(days_from_civil(1582, 10, 15)), days_from_civil(1582, 10, 15));
        assert_eq!(reread(days_from_civil(1582, 10, 4)), days_from_civil(1582, 10, 14));
        // The Julian 44 BC is two days early, and the year 1.
        assert_eq!(reread(days_from_civil(-43, 3, 15)), days_from_civil(-43, 3, 13));
        assert_eq!(reread(days_from_civil(1, 1, 1)), days_from_civil(1, 1, 1) - 2);
    }

    #[test]
    fn a_date_that_is_taken_apart_loses_its_era() {
        let local = |year, month, day| local(days_from_civil(year, month, day)).map(civil_from_days);
        assert_eq!(local(-43, 3, 15), Some((44, 3, 15)));
        assert_eq!(local(0, 2, 28), Some((1, 2, 28)));
        assert_eq!(local(-4, 2, 29), None);
        assert_eq!(local(1582, 10, 10), Some((1582, 10, 20)));
        assert_eq!(local(1500, 2, 28), Some((1500, 2, 28)));
        assert_eq!(local(5_874_897, 12, 31), Some((5_874_897, 12, 31)));
    }
}
