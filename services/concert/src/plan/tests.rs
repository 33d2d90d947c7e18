use events::{Problem, codes};

use super::*;

const HEADER: &str = "section,row,seat,price\n";

fn refused(text: &str) -> (u64, usize, String) {
    let error = parse(text).expect_err("the plan has a mistake");
    (error.line, error.column, error.reason.to_string())
}

fn seat_line(line: &str) -> (u64, usize, String) {
    refused(&format!("{HEADER}{line}\n"))
}

fn ids(text: &str) -> Vec<String> {
    let plan = parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
    let ids: Vec<_> = plan.blocks.iter().flat_map(SeatBlock::ids).map(|id| id.0).collect();
    assert_eq!(ids.len(), plan.seats_total);
    ids
}

fn block(section: &str, row: &str, price: i64, seats: &[&str]) -> SeatBlock {
    SeatBlock {
        section: section.to_owned(),
        row: row.to_owned(),
        price,
        seats: seats.iter().map(|&seat| seat.to_owned()).collect(),
    }
}

/// As a Mac types it: every syllable and every accent in its parts.
fn decomposed(text: &str) -> String {
    text.replace('석', "\u{1109}\u{1165}\u{11a8}").replace('é', "e\u{301}").replace('ô', "o\u{302}")
}

#[test]
fn neighbours_of_one_row_and_price_become_one_block() {
    let plan = parse(&format!("{HEADER}A,1,1,100\nA,1,2,100\nA,1,3,90\nA,2,1,90\nB,2,2,90\n"))
        .expect("a good plan");
    assert_eq!(
        plan.blocks,
        [
            block("A", "1", 100, &["1", "2"]),
            block("A", "1", 90, &["3"]),
            block("A", "2", 90, &["1"]),
            block("B", "2", 90, &["2"]),
        ]
    );
    assert_eq!(plan.seats_total, 5);
}

#[test]
fn the_order_of_the_file_is_kept() {
    assert_eq!(ids(&format!("{HEADER}B,1,1,5\nA,1,1,5\nB,1,2,5")), ["B-1-1", "A-1-1", "B-1-2"]);
}

#[test]
fn a_plan_is_parsed_as_spreadsheets_save_it() {
    for text in [
        "\u{feff}section,row,seat,price\r\n\r\n\"A\",1,\"1\",55000\r\n\r\n",
        "section,row,seat,price,,\nA,1,1,55000,,\n",
        "section,row,seat,price\nA,1,1,55000,\n",
        "section,row,seat,price\nA,1,1,55000,,,\n,,,\n,,,,,,\n   \n",
        "section, row, seat, price\nA, 1, 1, 55000\n",
        "section, row, seat, price\nA, \"1\", \"1\", \"55000\"\n",
        " Section ,ROW,Seat,PRICE\nA,1,1,55000\n",
        "price,section,row,seat\n55000,A,1,1\n",
        "id,section,row,seat,price,note\n7,A,1,1,55000,aisle\n",
        "section,row,seat,price\nA,1,1,\"55,000\"\n",
        "section,row,seat,price\nA,1,1,55000.00\n",
        "section,row,seat,price\nA,1,1, 55000 \n",
        "section;row;seat;price\nA;1;1;55000\n",
        "section;row;seat;price;;\nA;1;1;55.000,00;;\n",
        "section\trow\tseat\tprice\nA\t1\t1\t55,000\n",
        "section|row|seat|price\nA|1|1|55000\n",
        "sep=,\nsection,row,seat,price\nA,1,1,55000\n",
        "\u{feff}\"sep=;\"\r\nsection;row;seat;price\r\nA;1;1;55000\r\n",
        "sep=\t\nsection\trow\tseat\tprice\nA\t1\t1\t55000\n",
        "section,row,seat,price\n=\"A\",\"=\"\"1\"\"\",１,５５０００\n",
        "ｓｅｃｔｉｏｎ,row,seat,price\nＡ,1,1,55000\n",
    ] {
        assert_eq!(ids(text), ["A-1-1"], "{text:?}");
        assert_eq!(parse(text).expect("read").blocks[0].price, 55_000, "{text:?}");
    }
}

#[test]
fn a_refused_header_names_the_missing_columns_and_what_it_has() {
    for (text, column, field, words) in [
        ("section,row,number,price\nA,1,1,1\n", 3, "seat", ["`seat`", "`number`"]),
        ("section,row,seat\nA,1,1\n", 4, "price", ["`price`", "`row`"]),
        ("section;row;number;price\nA;1;1;1\n", 3, "seat", ["`seat`", "`number`"]),
        ("A,1,1,100\n", 1, "section", ["`section`, `row`, `seat`, `price`", "`a`, `1`"]),
        ("section row seat price\nA 1 1 100\n", 1, "section", ["`price`", "`section row seat"]),
    ] {
        let error = parse(text).expect_err("refused");
        assert_eq!((error.line, error.column, error.field), (1, column, field), "{text:?}");
        for word in words {
            assert!(error.reason.to_string().contains(word), "{text:?}: {}", error.reason);
        }
    }
    assert_eq!(refused("\n\nSection,row,chair,price\n").0, 3);
    assert_eq!(refused("sep=;\nsection;row;chair;price\n").0, 2);
    let (line, column, reason) = refused("section,row,seat,price,seat\nA,1,1,100,2\n");
    assert_eq!((line, column), (1, 5));
    assert!(reason.contains("twice"), "{reason}");
    assert!(refused("sep=\nsection,row,seat,price\n").2.contains("sep="));
}

#[test]
fn a_plan_without_seats_is_refused() {
    for empty in ["", "\u{feff}", "\n\r\n", ",,,\n", HEADER, "section,row,seat,price\n,,,\n"] {
        assert_eq!(parse(empty).expect_err("empty").line, 1, "{empty:?}");
    }
}

#[test]
fn a_line_needs_the_fields_of_its_header() {
    let (line, column, reason) = seat_line("A,1,1");
    assert_eq!((line, column), (2, 4));
    assert_eq!(reason, "the line has 3 fields, and the header has 4");
    let (line, column, reason) = seat_line("Box 3,4,A,1,55000");
    assert_eq!((line, column), (2, 5));
    assert!(reason.contains("in quotes"), "{reason}");
    let slipped = "section,row,seat,price,\nBox 3,4,A,1,55000\n";
    assert_eq!(refused(slipped).1, 5, "a price must not be taken from the seat");
    assert!(parse("section,row,seat,price,note\nA,1,1,1\n").is_ok(), "a note may be left out");
    assert_eq!(seat_line("\"A,1,1,100\nA,1,2,100").0, 2, "a quote that never ends");
}

#[test]
fn names_of_real_halls_are_stored_unchanged() {
    let long = "스".repeat(64);
    for name in [
        "VIP석 1층 A구역",
        "Orchestra-Left",
        "1. Rang",
        "Box 3/4",
        "Stalls (Side)",
        "King's",
        "A&B",
        "ORCHESTRA LEFT BLOCK A",
        "C+",
        "Côté Jardin №2",
        "#1 @ \"The Top\"",
        "100% / _\\",
        &long,
    ] {
        let quoted = format!("\"{}\"", name.replace('"', "\"\""));
        let plan = parse(&format!("{HEADER}{quoted},{quoted},{quoted},100\n"))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let kept = name.replace('№', "No");
        assert_eq!(plan.blocks, [block(&kept, &kept, 100, &[&kept])], "{name}");
        let id = plan.blocks[0].ids().next().expect("a seat");
        assert!(id.0.len() <= SeatId::BYTES_MAX);
        assert_eq!(id.section(), kept.replace('-', "_"));
    }
}

#[test]
fn a_name_has_1_to_64_visible_characters() {
    assert!(seat_line(",1,1,100").2.contains("must not be empty"));
    assert_eq!(seat_line(&format!("{},1,1,100", "A".repeat(65))).1, 1);
    for (nth, hidden) in ["\u{0}1", "1\u{200b}", "\u{202e}1", "\u{3164}"].iter().enumerate() {
        for column in 0..3 {
            let mut names = ["A", "B", "C"];
            names[column] = hidden;
            assert_eq!(seat_line(&format!("{},100", names.join(","))).1, column + 1, "{nth}");
        }
    }
}

#[test]
fn a_seat_is_the_same_however_its_name_is_typed() {
    for (one, other) in [
        ("R석,A,1", decomposed("R석,A,1")),
        ("Côté,A,1", decomposed("Côté,A,1")),
        ("A,1,1", "A,1,１".to_owned()),
        ("Ａ,1,1", "A, 1,1".to_owned()),
        ("VIP A,1,1", "VIP\u{3000}\u{a0}A,1,1".to_owned()),
    ] {
        let (line, column, reason) = seat_line(&format!("{one},100\n{other},100"));
        assert_eq!((line, column), (3, 3), "{one}: {reason}");
        assert!(reason.contains("line 2"), "{reason}");
        assert_eq!(ids(&format!("{HEADER}{other},100")), ids(&format!("{HEADER}{one},100")));
    }
}

#[test]
fn seats_that_look_alike_on_a_ticket_are_refused() {
    // Cyrillic letters beside Latin ones.
    for plan in [
        "A,1,1,100\n\u{410},1,1,100",
        "\u{410},1,1,100\nA,1,1,100",
        "\u{410}B,1,1,1\nA\u{412},1,1,1",
    ] {
        let (line, column, reason) = seat_line(plan);
        assert_eq!((line, column), (3, 3), "{plan}");
        assert!(reason.contains("looks like") && reason.contains("line 2"), "{reason}");
    }
    let plain = "O,1,1,100\n0,1,1,100\nI,1,1,100\nl,1,1,100\n1,1,1,100\n\u{411},1,1,100";
    assert_eq!(ids(&format!("{HEADER}{plain}")).len(), 6);
}

#[test]
fn sections_with_the_same_form_in_ids_are_refused() {
    let (line, column, reason) = seat_line("A-B,1,1,100\nA_B,1,2,100");
    assert_eq!((line, column), (3, 1));
    assert!(reason.contains("`A-B`") && reason.contains("line 2"), "{reason}");
    assert_eq!(ids(&format!("{HEADER}A-B,1,1,100\nA-B,1,2,100")), ["A_B-1-1", "A_B-1-2"]);
    assert_eq!(seat_line("A,1-B,x,100\nA,1_B,x,100").1, 3);
}

#[test]
fn a_standing_area_is_sold_by_number() {
    let standing = format!("{HEADER}STANDING,,1-300,66000\nA,1,1,100\n");
    let plan = parse(&standing).expect("a good plan");
    assert_eq!(plan.seats_total, 301);
    assert_eq!(plan.blocks[0].seats.len(), 300);
    assert_eq!(ids(&standing)[16], "STANDING--17");
    let capacity =
        "section,row,seat,price,capacity\nSTANDING,,,66000,300\nA,1,1,100,\nA,1,2,100,1\n";
    assert_eq!(parse(capacity).expect("a good plan").seats_total, 302);
    assert_eq!(ids(&format!("{HEADER}A,1,1-3,100\n")), ["A-1-1", "A-1-2", "A-1-3"]);
    assert_eq!(seat_line("A,1,1-3,100\nA,1,2,100").1, 3, "it has number 2 already");
    for wrong in ["STANDING,,,66000", "A,,1,100"] {
        let reason = seat_line(wrong).2;
        assert!(reason.contains("standing") && reason.contains("1-300"), "{reason}");
    }
    let both = "section,row,seat,price,capacity\nSTANDING,,1,66000,300\n";
    assert!(refused(both).2.contains("not both"));
    assert!(seat_line("STANDING,,1-100001,1").2.contains("at most 100000"));
}

#[test]
fn a_price_is_a_whole_number_of_points() {
    for wrong in ["", "-1", "+1", "1.5", "1e3", "free", "55.000", "100000001"] {
        assert_eq!(seat_line(&format!("A,1,1,{wrong}")).1, 4, "{wrong:?}");
    }
    assert_eq!(seat_line("A,1,1,99999999999999999999").1, 4);
}

#[test]
fn the_line_is_counted_as_an_editor_does() {
    for end in ["\n", "\r\n", "\r"] {
        let text = ["section,row,seat,price", "", "A,1,1,100", ",,,", "", "A,1,2,x"].join(end);
        assert_eq!(refused(&text).0, 6, "{end:?}");
        assert_eq!(refused(&format!("sep=,{end}{text}")).0, 7, "{end:?}");
    }
}

#[test]
fn a_seat_is_in_the_plan_only_once() {
    assert_eq!(
        seat_line("A,1,1,100\nA,1,2,100\nA,1,1,90"),
        (4, 3, "seat A-1-1 is on line 2 already".to_owned())
    );
}

#[test]
fn a_plan_has_100_000_seats_at_most() {
    let mut text = HEADER.to_owned();
    for seat in 0..SEATS_MAX {
        text.push_str(&format!("A,{},{},1\n", seat / 50, seat % 50));
    }
    assert_eq!(parse(&text).expect("just fits").seats_total, SEATS_MAX);
    text.push_str("B,1,1,1\n");
    assert_eq!(refused(&text).0, 100_002);
}

#[test]
fn a_refusal_names_line_column_field_and_reason() {
    let text = "price,seat,row,section\nx,1,1,A";
    let problem = Problem::from(parse(text).expect_err("bad"));
    assert!(problem.is(codes::SEAT_PLAN_INVALID));
    assert_eq!(problem.extra["line"], 2);
    assert_eq!(problem.extra["column"], 1);
    assert_eq!(problem.extra["field"], "price");
    assert_eq!(problem.extra["reason"], "\"x\" is not a whole number of points");
}

#[test]
fn the_shipped_plans_are_valid() {
    let club = parse(include_str!("../../../../venues/club.csv")).expect("the club");
    assert_eq!(club.seats_total, 50);
    let arena = parse(include_str!("../../../../venues/arena.csv")).expect("the arena");
    assert!((9_500..=10_500).contains(&arena.seats_total), "{}", arena.seats_total);
}
