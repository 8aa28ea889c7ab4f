use std::path::PathBuf;

use super::*;

fn classes() -> ClassSet {
    ClassSet::new(["tennis", "soccer", "icehockey", "other"].map(String::from).to_vec()).unwrap()
}

/// The schedule of a file with this name and contents.
fn read(name: &str, text: &str, zone: Option<&str>) -> Result<Schedule, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    let shown = format!("{}/", folder.path().display());
    Schedule::read(&path, zone).map_err(|e| e.replace(&shown, ""))
}

fn csv(entries: &str, zone: Option<&str>) -> Result<Schedule, String> {
    read("day.csv", &format!("start,end,expect\n{entries}"), zone)
}

/// A calendar with these lines in each event.
fn ics(events: &[&str]) -> Result<Schedule, String> {
    let events: String = events.iter().map(|event| format!("BEGIN:VEVENT\r\n{event}\r\nEND:VEVENT\r\n")).collect();
    read("week.ics", &format!("BEGIN:VCALENDAR\r\nVERSION:2.0\r\n{events}END:VCALENDAR\r\n"), Some("Europe/Berlin"))
}

/// What is expected at a time, with spaces between the names.
fn at(schedule: &Schedule, time: &str) -> String {
    let mut expectations = Expectations::new(&[], Some(schedule), 60, &classes()).unwrap();
    expectations.at(Some(unix_ns(time))).names(&classes()).join(" ")
}

fn unix_ns(time: &str) -> i64 {
    i64::try_from(time.parse::<Timestamp>().unwrap().as_nanosecond()).unwrap()
}

#[test]
fn entries_hold_from_their_start_until_before_their_end_and_overlapping_ones_join() {
    let schedule = csv(
        "2026-07-01T14:00:00Z,2026-07-01T16:00:00Z,tennis\n\
         2026-07-01T15:00:00+00:00 , 2026-07-01T17:00:00Z, Soccer other\n\
         2026-07-01T17:00:00Z,2026-07-01T18:00:00Z,\"no-programme,unknown\"\n",
        None,
    );
    let schedule = schedule.unwrap();
    for (time, expected) in [
        ("13:59:59", ""),
        ("14:00:00", "tennis"),
        ("14:59:59.999", "tennis"),
        ("15:00:00", "tennis soccer other"),
        ("16:00:00", "soccer other"),
        ("17:30:00", "unknown no-programme"),
        ("18:00:00", ""),
    ] {
        assert_eq!(at(&schedule, &format!("2026-07-01T{time}Z")), expected, "{time}");
    }
}

#[test]
fn what_is_expected_otherwise_holds_outside_the_schedule_and_without_a_time() {
    let schedule = csv("2026-07-01T14:00:00Z,2026-07-01T16:00:00Z,tennis\n", None).unwrap();
    let mut expectations = Expectations::new(&["other".into()], Some(&schedule), 60, &classes()).unwrap();
    let mut at = |time: Option<&str>| expectations.at(time.map(unix_ns)).names(&classes()).join(" ");
    // Back and forth over the hours that are resolved at once.
    for (time, expected) in [
        (None, "other"),
        (Some("2026-07-01T15:59:59Z"), "tennis"),
        (Some("2026-07-01T16:00:00Z"), "other"),
        (Some("2026-07-01T14:00:00Z"), "tennis"),
        (None, "other"),
    ] {
        assert_eq!(at(time), expected, "{time:?}");
    }
}

#[test]
fn local_times_follow_the_clocks_of_the_time_zone() {
    // On 25 October 2026 the clocks go back in Berlin: 03:00 summer time is 02:00.
    let schedule = csv(
        "2026-10-24T20:00,2026-10-24 21:00,tennis\n2026-10-25T20:00:00,2026-10-25T21:00,soccer\n",
        Some("Europe/Berlin"),
    );
    let schedule = schedule.unwrap();
    for (time, expected) in [
        ("2026-10-24T17:59:59Z", ""),
        ("2026-10-24T18:00:00Z", "tennis"),
        ("2026-10-25T18:59:59Z", ""),
        ("2026-10-25T19:00:00Z", "soccer"),
    ] {
        assert_eq!(at(&schedule, time), expected, "{time}");
    }
}

#[test]
fn a_calendar_has_times_in_utc_with_a_zone_and_without() {
    let schedule = ics(&[
        "DTSTART:20260701T140000Z\r\nDTEND:20260701T150000Z\r\nSUMMARY:Tennis",
        "DTSTART;TZID=America/New_York:20260701T140000\r\nDURATION:PT1H30M\r\nSUMMARY:Final\r\nCATEGORIES:soccer\\,other",
        "DTSTART:20260702T140000\r\nDTEND:20260702T150000\r\nSUMMARY:ice\r\n hockey",
        "DTSTART;VALUE=DATE:20260801\r\nSUMMARY;LANGUAGE=\"de:x\":tennis",
    ]);
    let schedule = schedule.unwrap();
    for (time, expected) in [
        ("2026-07-01T14:00:00Z", "tennis"),
        ("2026-07-01T18:00:00Z", "soccer other"),
        ("2026-07-01T19:29:59Z", "soccer other"),
        ("2026-07-01T19:30:00Z", ""),
        ("2026-07-02T12:30:00Z", "icehockey"),
        ("2026-07-31T21:59:59Z", ""),
        ("2026-07-31T22:00:00Z", "tennis"),
        ("2026-08-01T21:59:59Z", "tennis"),
        ("2026-08-01T22:00:00Z", ""),
    ] {
        assert_eq!(at(&schedule, time), expected, "{time}");
    }
}

/// The starts of a schedule's entries between two days, at local noon.
fn days(rule: &str) -> String {
    let schedule =
        ics(&[&format!("DTSTART;TZID=Europe/Berlin:20260302T120000\r\nDURATION:PT1H\r\nSUMMARY:tennis\r\n{rule}")]);
    let schedule = schedule.unwrap();
    let zone = TimeZone::get("Europe/Berlin").unwrap();
    let day = |n: i64| civil::date(2026, 3, 1).checked_add(jiff::Span::new().days(n)).unwrap();
    let holds = |n: &i64| {
        let noon = zone.to_timestamp(day(*n).at(12, 0, 0, 0)).unwrap();
        let holds =
            |seconds: i64| at(&schedule, &Timestamp::from_second(noon.as_second() + seconds).unwrap().to_string());
        assert_eq!((holds(-1), holds(3600)), (String::new(), String::new()), "{rule}: {n}");
        assert_eq!(holds(0), holds(3599), "{rule}: {n}");
        holds(0) == "tennis"
    };
    (0..61).filter(holds).map(|n| day(n).strftime("%-m/%-d").to_string()).collect::<Vec<_>>().join(" ")
}

#[test]
fn events_repeat_by_days_and_weeks() {
    // 2 March 2026 is a Monday. On 29 March the clocks go forward: noon stays noon.
    for (rule, expected) in [
        ("RRULE:FREQ=DAILY;COUNT=3", "3/2 3/3 3/4"),
        ("RRULE:FREQ=DAILY;INTERVAL=10;UNTIL=20260401T100000Z", "3/2 3/12 3/22 4/1"),
        ("RRULE:FREQ=DAILY;INTERVAL=10;UNTIL=20260401T095959Z", "3/2 3/12 3/22"),
        ("RRULE:FREQ=DAILY;BYDAY=MO,SU;UNTIL=20260315", "3/2 3/8 3/9 3/15"),
        ("RRULE:FREQ=WEEKLY;COUNT=5", "3/2 3/9 3/16 3/23 3/30"),
        ("RRULE:FREQ=WEEKLY;INTERVAL=2;COUNT=4;BYDAY=MO,SU", "3/2 3/8 3/16 3/22"),
        ("RRULE:FREQ=WEEKLY;INTERVAL=2;COUNT=4;BYDAY=MO,SU;WKST=SU", "3/2 3/15 3/16 3/29"),
        ("RRULE:FREQ=WEEKLY;BYDAY=MO;UNTIL=20260330T115959", "3/2 3/9 3/16 3/23"),
        ("RRULE:FREQ=WEEKLY;COUNT=4\r\nEXDATE;TZID=Europe/Berlin:20260309T120000,20260316T120000", "3/2 3/23"),
    ] {
        assert_eq!(days(rule), expected, "{rule}");
    }
    assert_eq!(days("RRULE:FREQ=DAILY").split(' ').count(), 60, "a rule without an end continues");
}

#[test]
fn a_repetition_can_be_moved_or_cancelled() {
    let schedule = ics(&[
        "UID:a\r\nDTSTART:20260302T120000Z\r\nDTEND:20260302T130000Z\r\nSUMMARY:tennis\r\nRRULE:FREQ=DAILY;COUNT=4",
        "UID:a\r\nRECURRENCE-ID:20260303T120000Z\r\nDTSTART:20260303T180000Z\r\nDTEND:20260303T190000Z\r\nSUMMARY:soccer",
        "UID:a\r\nRECURRENCE-ID:20260304T120000Z\r\nDTSTART:20260304T120000Z\r\nDTEND:20260304T130000Z\r\nSTATUS:CANCELLED",
    ]);
    let schedule = schedule.unwrap();
    for (time, expected) in [
        ("2026-03-02T12:00:00Z", "tennis"),
        ("2026-03-03T12:00:00Z", ""),
        ("2026-03-03T18:00:00Z", "soccer"),
        ("2026-03-04T12:00:00Z", ""),
        ("2026-03-05T12:00:00Z", "tennis"),
    ] {
        assert_eq!(at(&schedule, time), expected, "{time}");
    }
}

#[test]
fn an_entry_over_midnight_and_one_of_several_days_hold_on_all_their_days() {
    let schedule = ics(&[
        "DTSTART:20260302T230000Z\r\nDTEND:20260303T010000Z\r\nSUMMARY:tennis\r\nRRULE:FREQ=WEEKLY",
        "DTSTART;VALUE=DATE:20260305\r\nDTEND;VALUE=DATE:20260312\r\nSUMMARY:soccer\r\nRRULE:FREQ=WEEKLY;INTERVAL=2",
    ]);
    let schedule = schedule.unwrap();
    assert_eq!(at(&schedule, "2026-06-09T00:59:59Z"), "tennis");
    assert_eq!(at(&schedule, "2026-06-02T00:59:59Z"), "tennis soccer");
    assert_eq!(at(&schedule, "2026-03-11T22:59:59Z"), "soccer");
    assert_eq!(at(&schedule, "2026-03-11T23:00:00Z"), "");
    assert_eq!(at(&schedule, "2026-03-25T12:00:00Z"), "soccer");
}

#[test]
fn mistakes_name_file_line_cause_and_remedy() {
    let refused = |result: Result<Schedule, String>| result.unwrap_err();
    let day = |line: &str| refused(csv(&format!("2026-07-01T14:00:00Z,2026-07-01T16:00:00Z,tennis\n{line}\n"), None));
    let event = |lines: &str| refused(ics(&[&format!("DTSTART:20260701T140000Z\r\nSUMMARY:tennis\r\n{lines}")]));
    for (found, words) in [
        (
            day("today,2026-07-01T16:00:00Z,tennis"),
            ["day.csv:3: \"today\" is not a time", "write 2026-07-01T14:00:00Z"],
        ),
        (day("2026-07-01T16:00:00Z,2026-07-01T14:00:00Z,tennis"), ["day.csv:3: the end", "is not after the start"]),
        (
            day("2026-07-01T16:00,2026-07-01T17:00,tennis"),
            ["day.csv:3: 2026-07-01T16:00 is a local time", "set time_zone"],
        ),
        (day("2026-07-01T16:00:00Z,2026-07-01T17:00:00Z,"), ["day.csv:3: the entry names no class", "as in tennis"]),
        (day("2026-07-01T16:00:00Z"), ["day.csv:3: an entry has three values", "start,end,expect"]),
        (refused(read("a.csv", "from,to\n", None)), ["a.csv:1: the first line is not start,end,expect", "add it"]),
        (refused(read("a.txt", "", None)), ["a.txt: the name of a schedule ends in .ics or .csv", "rename"]),
        (refused(read("a.ics", "start,end:\n", None)), ["a.ics:1: ", "BEGIN:VCALENDAR"]),
        (
            refused(read("a.ics", "BEGIN:VCALENDAR\n", None)),
            ["a.ics:1: BEGIN:VCALENDAR has no END:VCALENDAR", "cut off"],
        ),
        (refused(read("a.ics", "BEGIN:VCALENDAR\nEND:VEVENT\n", None)), ["a.ics:2: END:VEVENT has no BEGIN", "again"]),
        (event("X"), ["week.ics:6: the line is not NAME:VALUE", "again"]),
        (event(""), ["week.ics:3: the event has no DTEND", "DURATION"]),
        (event("DTEND:20260701T140000Z"), ["week.ics:3: the event does not end after its start", "correct"]),
        (event("DURATION:P1M"), ["week.ics:6: \"P1M\" is not a duration", "PT2H30M"]),
        (
            event("DTEND;TZID=W. Europe:20260701T150000"),
            ["week.ics:6: \"W. Europe\" is not a time zone", "Europe/London"],
        ),
        (
            event("DURATION:PT1H\r\nRRULE:FREQ=MONTHLY"),
            ["week.ics:7: FREQ=MONTHLY in RRULE is not supported", "FREQ=DAILY"],
        ),
        (event("DURATION:PT1H\r\nRRULE:FREQ=DAILY;BYHOUR=3"), ["week.ics:7: BYHOUR=3 in RRULE is not", "one by one"]),
        (event("DURATION:PT1H\r\nRRULE:FREQ=WEEKLY;BYDAY=2MO"), ["week.ics:7: 2MO in RRULE", "write MO"]),
        (
            event("DURATION:PT1H\r\nRRULE:FREQ=WEEKLY;BYDAY=MO"),
            ["week.ics:7: the start is not a day", "correct DTSTART"],
        ),
        (event("DURATION:PT1H\r\nRRULE:FREQ=DAILY;COUNT=0"), ["week.ics:7: COUNT=0 is not allowed", "1 to 10000"]),
        (event("DURATION:PT1H\r\nRRULE:COUNT=2"), ["week.ics:7: RRULE has no FREQ", "FREQ=DAILY"]),
        (event("DURATION:P32D\r\nRRULE:FREQ=DAILY"), ["week.ics:7: the entry is longer than 31 days", "shorter"]),
        (event("DURATION:PT1H\r\nRDATE:20260703T140000Z"), ["week.ics:7: RDATE is not supported", "one by one"]),
        (
            refused(ics(&["DTSTART:2026070\r\nSUMMARY:tennis"])),
            ["week.ics:4: \"2026070\" is not a time", "20260701T140000Z"],
        ),
        (
            refused(ics(&["DTSTART:20260701T140000Z\r\nDURATION:PT1H"])),
            ["week.ics:3: the event names no class", "SUMMARY"],
        ),
    ] {
        assert!(words.iter().all(|word| found.contains(word)), "{words:?}: {found}");
    }
}

#[test]
fn files_that_cannot_be_read_or_are_too_large_are_refused() {
    let missing = Schedule::read(&PathBuf::from("/nowhere/day.csv"), None).unwrap_err();
    assert!(missing.starts_with("/nowhere/day.csv: cannot read the schedule: ") && missing.contains("check the path"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("folder.ics");
    std::fs::create_dir(&path).unwrap();
    assert!(Schedule::read(&path, None).unwrap_err().contains("it is not a file"));
    let large = csv(&"2026-07-01T14:00:00Z,2026-07-01T16:00:00Z,tennis\n".repeat(30_000), None).unwrap_err();
    assert!(large.contains("larger than 1 MB"), "{large}");
}

#[test]
fn a_class_that_the_pack_does_not_have_is_reported_with_the_nearest_one() {
    for (name, words) in [
        ("tenis", "the pack has no class \"tenis\"; did you mean tennis?"),
        ("hockey", "choose from tennis, soccer, icehockey, other, unknown and no-programme"),
        ("ice", "did you mean icehockey?"),
        ("noprogramme", "did you mean no-programme?"),
    ] {
        let refused = Expectations::new(&[name.into()], None, 60, &classes()).unwrap_err();
        assert!(refused.contains(words), "{refused}");
    }
    let schedule = csv(
        "2026-07-01T14:00:00Z,2026-07-01T16:00:00Z,tennis\n2026-07-01T17:00:00Z,2026-07-01T18:00:00Z,socer\n",
        None,
    );
    let refused = Expectations::new(&[], Some(&schedule.unwrap()), 60, &classes()).unwrap_err();
    assert!(refused.ends_with("day.csv:3: the pack has no class \"socer\"; did you mean soccer?"), "{refused}");
}

#[test]
fn schedules_are_equal_when_their_entries_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("day.csv");
    let read = |entry: &str| {
        std::fs::write(&path, format!("start,end,expect\n{entry}\n")).unwrap();
        Schedule::read(&path, None).unwrap()
    };
    let before = read("2026-07-01T14:00:00Z,2026-07-01T16:00:00Z,tennis");
    assert_eq!(before, read("2026-07-01T14:00:00Z, 2026-07-01T16:00:00Z, tennis"));
    assert_ne!(before, read("2026-07-01T14:00:00Z,2026-07-01T16:00:00Z,soccer"));
    assert_eq!(before.name(), "day.csv");
}
