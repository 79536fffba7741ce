//! Inputs become documents, all of them, or an error with the place and the reason.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Int64Array, LargeStringArray, RecordBatch, StringArray, StringViewArray, StructArray,
};
use arrow::datatypes::{DataType, Field};
use parquet::arrow::ArrowWriter;
use pipeline::read::documents::Columns;

use crate::support::inputs::{
    file, fixtures, gz, line, lines, read, read_columns, tokenize, tokenize_error, zst,
};

const TEXTS: [&str; 4] = ["one", "", "drei\n\u{1F600}\0", "quatre"];

fn check_texts(path: &Path) {
    let docs = read(path).unwrap();
    let texts: Vec<&str> = docs.iter().map(|(_, text, _)| text.as_str()).collect();
    assert_eq!(texts, TEXTS, "{}", path.display());
    let rows: Vec<u64> = docs.iter().map(|(row, _, _)| *row).collect();
    assert_eq!(rows, [1, 2, 3, 4], "{}", path.display());
}

/// Reading `bytes` as the file `name` fails, and the error holds each of `parts`.
fn check_error(name: &str, bytes: &[u8], parts: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), name, bytes);
    let error = read(&path).unwrap_err();
    for part in [name].iter().chain(parts) {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
}

#[test]
fn every_form_gives_the_same_documents() {
    let dir = tempfile::tempdir().unwrap();
    let text = lines(&TEXTS);
    // Within a line.
    let (first, second) = text.split_at(20);
    let skippable = [0x5A, 0x2A, 0x4D, 0x18, 5, 0, 0, 0, 1, 2, 3, 4, 5];
    let frames = [&skippable, &*zst(first.as_bytes()), &skippable, &*zst(second.as_bytes())];
    let members = [gz(first.as_bytes()), gz(second.as_bytes())].concat();
    check_texts(&file(dir.path(), "a.jsonl", &text));
    check_texts(&file(dir.path(), "a.json", &text));
    check_texts(&file(dir.path(), "a.jsonl.zst", frames.concat()));
    check_texts(&file(dir.path(), "a.jsonl.gz", members));
    check_texts(&file(dir.path(), "no-last-newline.jsonl", text.trim_end()));
    let crlf = format!("\u{feff}{}", text.replace('\n', "\r\n"));
    check_texts(&file(dir.path(), "bom-and-crlf.jsonl", crlf));
}

#[test]
fn a_zstd_window_beyond_the_default_limit_is_read() {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(28).unwrap();
    encoder.write_all(lines(&TEXTS).as_bytes()).unwrap();
    let bytes = encoder.finish().unwrap();
    let mut plain = zstd::stream::read::Decoder::new(bytes.as_slice()).unwrap();
    plain.window_log_max(27).unwrap();
    assert!(std::io::copy(&mut plain, &mut std::io::sink()).is_err(), "the window is long");
    let dir = tempfile::tempdir().unwrap();
    check_texts(&file(dir.path(), "long.jsonl.zst", bytes));
}

/// Made by hand, because an encoder given little data takes a smaller window. This is the largest
/// accepted one.
#[test]
fn a_zstd_window_of_two_gibibytes_is_read() {
    let text = lines(&TEXTS);
    // The last block, raw.
    let block = (text.len() as u32) << 3 | 1;
    let exponent = 31 - 10;
    let head = [0x28, 0xb5, 0x2f, 0xfd, 0, exponent << 3];
    let bytes = [&head, &block.to_le_bytes()[..3], text.as_bytes()].concat();
    let dir = tempfile::tempdir().unwrap();
    check_texts(&file(dir.path(), "2-gib.jsonl.zst", &bytes));
    let mut beyond = bytes;
    // An eighth more.
    beyond[5] |= 1;
    check_error("more.jsonl.zst", &beyond, &["needs a window of 2415919104 bytes"]);
}

#[test]
fn blank_lines_are_no_documents_but_count_as_lines() {
    let dir = tempfile::tempdir().unwrap();
    let text =
        format!("\n  \t\r\n{}\n\n{}\n \n", line("a", None).trim(), line("b", Some("S")).trim());
    let docs = read(&file(dir.path(), "a.jsonl", text)).unwrap();
    let expected = [(3, "a".to_owned(), None), (5, "b".to_owned(), Some("S".to_owned()))];
    assert_eq!(docs, expected);
}

#[test]
fn a_compressed_file_cut_anywhere_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let text = lines(&TEXTS);
    for (name, bytes) in
        [("a.jsonl.zst", zst(text.as_bytes())), ("a.jsonl.gz", gz(text.as_bytes()))]
    {
        for length in 1..bytes.len() {
            let path = file(dir.path(), name, &bytes[..length]);
            let error = read(&path).expect_err("a part was taken for the whole");
            assert!(error.contains(name) && error.contains("ends at byte"), "{length}: {error}");
        }
    }
    let long = lines(&["x"; 100_000]);
    let bytes = zst(long.as_bytes());
    let end = bytes.len() - 3;
    let said = format!("ends at byte {end} in the middle of its zstd data");
    check_error("cut.jsonl.zst", &bytes[..end], &[&said, "line 100001", "get it again"]);
}

#[test]
fn a_damaged_compressed_file_is_an_error() {
    let text = lines(&["some text that is long enough to be compressed"; 50]);
    for (name, mut bytes, after) in [
        ("a.jsonl.zst", zst(text.as_bytes()), "begins no other"),
        ("a.jsonl.gz", gz(text.as_bytes()), "the next bytes are not a gzip member"),
    ] {
        // Within the data or its checksum.
        let at = bytes.len() - 6;
        bytes[at] ^= 0x10;
        check_error(name, &bytes, &["cannot read", "of the file"]);
        bytes[at] ^= 0x10;
        bytes.extend(b"rubbish after the end");
        check_error(name, &bytes, &["cannot read", after]);
        // Shorter than a header.
        bytes.truncate(bytes.len() - b"bish after the end".len());
        check_error(name, &bytes, &["cannot read", after]);
    }
}

#[test]
fn a_file_that_is_not_what_its_name_says_is_an_error() {
    let text = lines(&TEXTS);
    let (zst, gz) = (zst(text.as_bytes()), gz(text.as_bytes()));
    check_error("a.jsonl", &zst, &["which is zstd", "promises JSON lines"]);
    check_error("a.jsonl.zst", &gz, &["which is gzip", "promises zstd"]);
    check_error("a.jsonl.zst", text.as_bytes(), &["none of zstd, gzip and Parquet"]);
    check_error("a.parquet", text.as_bytes(), &["promises Parquet"]);
    check_error("a.txt", text.as_bytes(), &["unknown kind", ".jsonl"]);
    for name in ["a.jsonl", "a.jsonl.zst", "a.jsonl.gz", "a.parquet"] {
        check_error(name, b"", &["is empty (0 bytes)"]);
    }
}

#[test]
fn a_bad_line_is_named_with_line_byte_and_reason() {
    let good = line("a", None);
    let after = |bad: &[u8]| [good.as_bytes(), b"\n", bad, b"\n"].concat();
    let place = format!("line 3 (from byte {} of the text)", good.len() + 1);
    for (bad, reason) in [
        (&b"{\"text\": \"x\""[..], "the line ends at its byte 12; expected ',' or '}'"),
        (b"[1, 2]", "expected an object"),
        (b"{\"txt\": \"x\"}", "no key \"text\""),
        (b"{\"text\": 7}", "\"text\" is a number; expected a string"),
        (b"{\"text\": null}", "\"text\" is null; expected a string"),
        (b"{\"text\": \"\xff\"}", "byte 10 of the line is 0xff, which is not UTF-8 there"),
        (
            b"{\"text\": \"a\"}{\"text\": \"b\"}",
            "found '{' at byte 13 of the line; expected the end",
        ),
    ] {
        check_error("a.jsonl", &after(bad), &[&place, reason]);
        check_error("a.jsonl.zst", &zst(&after(bad)), &[&place, reason]);
    }
}

#[test]
fn a_bad_line_stops_or_is_listed_as_asked() {
    let dir = tempfile::tempdir().unwrap();
    let first = line("one", Some("S"));
    let text = [&*first, "{\"text\": 1}\n", "not json\n", &*line("two", None)].concat();
    let input = file(dir.path(), "in.jsonl", text);
    let (error, status) = tokenize_error(&dir.path().join("stop"), &[&input], &[]);
    assert!(
        error.contains(&format!("in.jsonl: line 2 (from byte {} of the text)", first.len())),
        "{error}"
    );
    assert!(error.contains("--on-error skip"), "{error}");
    assert_eq!(status, 1);
    let out = dir.path().join("skip");
    let report = tokenize(&out, &[&input], &["--on-error", "skip"]).unwrap();
    let totals = report.manifest.totals;
    assert_eq!((totals.documents_read, totals.documents_written), (4, 2));
    assert_eq!(totals.documents_skipped, 2);
    let list = fs::read_to_string(out.join("skipped.jsonl")).unwrap();
    let listed: Vec<serde_json::Value> =
        list.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(listed[0]["file"], "in.jsonl");
    assert_eq!((&listed[0]["row"], &listed[1]["row"]), (&2.into(), &3.into()));
    assert_eq!(listed[1]["byte_offset"], first.len() + 12);
    assert_eq!(listed[0]["reason"], "\"text\" is a number; expected a string");
    assert_eq!(pipeline::corpus::verify::check(&out).unwrap().faults, [""; 0]);
}

fn parquet(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, array)| (name, array, true)),
    )
    .unwrap();
    let mut writer =
        ArrowWriter::try_new(fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

#[test]
fn every_string_type_of_parquet_gives_the_same_documents() {
    let dir = tempfile::tempdir().unwrap();
    let plain = StringArray::from(TEXTS.to_vec());
    let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let arrays: [(&str, ArrayRef); 4] = [
        ("utf8", Arc::new(plain.clone())),
        ("large", Arc::new(LargeStringArray::from(TEXTS.to_vec()))),
        ("view", Arc::new(StringViewArray::from(TEXTS.to_vec()))),
        ("dictionary", arrow::compute::cast(&plain, &dictionary).unwrap()),
    ];
    for (name, array) in arrays {
        let path = dir.path().join(format!("{name}.parquet"));
        parquet(&path, vec![("id", Arc::new(Int64Array::from(vec![1; 4]))), ("text", array)]);
        check_texts(&path);
    }
}

#[test]
fn a_set_name_comes_from_a_struct_or_from_a_column() {
    let dir = tempfile::tempdir().unwrap();
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c"]));
    let names: ArrayRef = Arc::new(StringArray::from(vec![Some("S"), None, Some("T")]));
    let field = Arc::new(Field::new("pile_set_name", DataType::Utf8, true));
    let valid = arrow::buffer::NullBuffer::from(vec![true, true, false]);
    let meta = StructArray::new(vec![field].into(), vec![names.clone()], Some(valid));
    let path = dir.path().join("a.parquet");
    parquet(&path, vec![("text", texts), ("meta", Arc::new(meta)), ("source", names)]);
    let sets = |columns: &Columns| {
        let docs = read_columns(&path, columns).unwrap();
        docs.into_iter().map(|(_, _, set)| set.unwrap_or_default()).collect::<Vec<_>>()
    };
    assert_eq!(sets(&Columns::default()), ["S", "", ""]);
    let source = Columns { set: Some("source".to_owned()), ..Columns::default() };
    assert_eq!(sets(&source), ["S", "", "T"]);
}

#[test]
fn a_column_that_is_missing_or_no_string_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    parquet(&path, vec![("content", Arc::new(StringArray::from(vec!["a"]))), ("n", numbers)]);
    let error = read(&path).unwrap_err();
    let expected = "has no column \"text\"; its columns of strings: content; --text-column";
    assert!(error.contains(expected), "{error}");
    let error = |text: &str, set: Option<&str>| {
        let (text, set) = (text.to_owned(), set.map(str::to_owned));
        let columns = Columns { text, set, ..Columns::default() };
        read_columns(&path, &columns).unwrap_err()
    };
    assert!(error("n", None).contains("\"n\" of"), "{}", error("n", None));
    assert!(error("n", None).contains("is Int64; expected strings"));
    assert!(error("content", Some("s")).contains("no column \"s\""));
    assert!(error("content", Some("n")).contains("is Int64; expected strings"));
}

/// A message never names a column that would be refused in its turn.
#[test]
fn every_column_that_a_message_names_can_be_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    let field = |name: &str, kind: DataType| Arc::new(Field::new(name, kind, true));
    let fields = vec![
        field("text", DataType::Utf8),
        field("n", DataType::Int64),
        field("lang", DataType::Utf8),
    ];
    let doc = StructArray::new(fields.into(), vec![texts.clone(), numbers, texts.clone()], None);
    let offsets = arrow::buffer::OffsetBuffer::new(vec![0, 1, 2].into());
    let list = arrow::array::ListArray::new(
        field("element", DataType::Utf8),
        offsets,
        texts.clone(),
        None,
    );
    parquet(&path, vec![("doc", Arc::new(doc)), ("list", Arc::new(list)), ("plain", texts)]);
    let read = |text: &str, set: Option<&str>| {
        let (text, set) = (text.to_owned(), set.map(str::to_owned));
        read_columns(&path, &Columns { text, set, ..Columns::default() })
    };
    let expected = vec![(1, "a".to_owned(), None), (2, "b".to_owned(), None)];
    let missing = read("text", None).unwrap_err();
    let named = missing.split_once("columns of strings: ").unwrap().1.split_once(';').unwrap().0;
    assert_eq!(named, "doc.text, doc.lang, plain");
    for column in named.split(", ") {
        assert_eq!(read(column, None).as_ref(), Ok(&expected), "{column}");
        let sets = read("plain", Some(column)).unwrap();
        assert_eq!(sets[1].2.as_deref(), Some("b"), "{column}");
    }
    let found = read("doc", None).unwrap_err();
    assert!(found.contains("is a struct with doc.text, doc.lang, and --text-column"), "{found}");
    let found = read("list", None).unwrap_err();
    assert!(found.contains("is a list, a map, or a struct without strings"), "{found}");
    assert!(read("list.list.element", None).unwrap_err().contains("List"));
}

#[test]
fn two_columns_of_one_name_are_refused_where_they_would_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    let array = |texts: Vec<&'static str>| -> ArrayRef { Arc::new(StringArray::from(texts)) };
    let columns = vec![
        ("text", array(vec!["a"])),
        ("x", array(vec!["b"])),
        ("x", array(vec!["c"])),
        ("n", array(vec!["d"])),
    ];
    parquet(&path, columns);
    let read = |text: &str, set: Option<&str>| {
        let (text, set) = (text.to_owned(), set.map(str::to_owned));
        read_columns(&path, &Columns { text, set, ..Columns::default() })
    };
    assert_eq!(read("text", Some("n")), Ok(vec![(1, "a".to_owned(), Some("d".to_owned()))]));
    for refused in [read("x", None), read("text", Some("x"))] {
        let said = refused.unwrap_err();
        assert!(said.contains("more than one column is named \"x\""), "{said}");
    }
}

/// pyarrow 26 made them: one with an encrypted footer, one with encrypted columns only.
#[test]
fn encrypted_parquet_is_named_as_such() {
    for name in ["encrypted", "encrypted-columns"] {
        let path = fixtures().join(format!("parquet/{name}.parquet"));
        let said = read(&path).unwrap_err();
        let is_said = said.contains(name) && said.contains("without encryption");
        assert!(is_said, "{said}");
    }
}

#[test]
fn a_null_text_is_a_row_that_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    parquet(&path, vec![("text", Arc::new(StringArray::from(vec![Some("a"), None, Some("c")])))]);
    assert!(read(&path).unwrap_err().contains("row 2: the text is null"));
    let report = tokenize(&dir.path().join("out"), &[&path], &["--on-error", "skip"]).unwrap();
    assert_eq!(report.manifest.totals.documents_skipped, 1);
}

#[test]
fn a_parquet_file_cut_or_damaged_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    parquet(&path, vec![("text", Arc::new(StringArray::from(TEXTS.to_vec())))]);
    let bytes = fs::read(&path).unwrap();
    for length in 4..bytes.len() {
        let error = read(&file(dir.path(), "cut.parquet", &bytes[..length])).unwrap_err();
        assert!(error.contains("cut.parquet as Parquet"), "{length}: {error}");
    }
    let mut damaged = bytes.clone();
    // Within the footer.
    let at = bytes.len() - 20;
    damaged[at] ^= 0xff;
    damaged[at - 30] ^= 0xff;
    assert!(read(&file(dir.path(), "damaged.parquet", damaged)).is_err());
}

/// A line too long to hold an accepted text is not kept; its neighbours are.
#[test]
fn a_document_that_is_too_long_is_refused_like_a_bad_line() {
    let dir = tempfile::tempdir().unwrap();
    let (long, huge) = ("x".repeat(11), "y".repeat(2 << 20));
    let text = lines(&["0123456789", &long, "two", &huge, "\u{1}\u{1}\u{1}"]);
    let input = file(dir.path(), "in.jsonl", &text);
    let out = dir.path().join("out");
    let limit = ["--max-document-bytes", "10"];
    let (error, _) = tokenize_error(&out, &[&input], &limit);
    let said = "line 2 (from byte 22 of the text): the text is 11 bytes; \
                a document may have 10 (--max-document-bytes)";
    assert!(error.contains(said), "{error}");
    let options = [&limit[..], &["--on-error", "skip", "--force"]].concat();
    let report = tokenize(&out, &[&input], &options).unwrap();
    assert_eq!(report.manifest.totals.documents_written, 3);
    let list = fs::read_to_string(out.join("skipped.jsonl")).unwrap();
    assert_eq!(list.lines().count(), 2);
    let said = format!("the line is {} bytes, too long for a document of 10", huge.len() + 12);
    assert!(list.contains(&said), "{list}");
    assert_eq!(read(&input).unwrap().len(), 5);

    let path = dir.path().join("a.parquet");
    parquet(&path, vec![("text", Arc::new(StringArray::from(vec!["0123456789", &long])))]);
    let (error, _) = tokenize_error(&dir.path().join("rows"), &[&path], &limit);
    assert!(error.contains("row 2: the text is 11 bytes"), "{error}");
}

/// Rows of invalid bytes in a column declared as UTF-8, which only a damaged or careless writer
/// makes.
fn parquet_of_raw_strings(path: &Path, texts: &[&[u8]], has_dictionary: bool) {
    use parquet::data_type::{ByteArray, ByteArrayType};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;

    let schema = "message m { required group meta { required binary pile_set_name (UTF8); } \
                  required binary text (UTF8); }";
    let schema = Arc::new(parquet::schema::parser::parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder().set_dictionary_enabled(has_dictionary).build();
    let file = fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let texts: Vec<ByteArray> = texts.iter().map(|&text| ByteArray::from(text)).collect();
    for values in [vec![ByteArray::from("S"); texts.len()], texts] {
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn a_string_of_parquet_that_is_no_utf8_is_one_row_that_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for has_dictionary in [false, true] {
        let path = dir.path().join("a.parquet");
        parquet_of_raw_strings(
            &path,
            &[b"one", b"tw\xffo", "drei\u{e9}".as_bytes()],
            has_dictionary,
        );
        let reason = "the text is not UTF-8 from its byte 2 (0xff) on";
        assert!(read(&path).unwrap_err().contains(&format!("row 2: {reason}")));
        let out = dir.path().join(format!("out-{has_dictionary}"));
        let report = tokenize(&out, &[&path], &["--on-error", "skip"]).unwrap();
        let totals = report.manifest.totals;
        assert_eq!((totals.documents_written, totals.documents_skipped), (2, 1));
        assert_eq!(report.manifest.sets[0].set_name.as_deref(), Some("S"));
        let list = fs::read_to_string(out.join("skipped.jsonl")).unwrap();
        let listed: serde_json::Value = serde_json::from_str(&list).unwrap();
        assert_eq!((&listed["row"], &listed["reason"]), (&2.into(), &reason.into()));
        assert_eq!(pipeline::corpus::verify::check(&out).unwrap().faults, [""; 0]);
    }
}

/// The fixture is uncompressed, so only the pages' checksums can reveal damage.
#[test]
fn a_flipped_bit_in_a_parquet_page_with_a_checksum_is_an_error() {
    let path = fixtures().join("parquet/checksums.parquet");
    let mut bytes = fs::read(&path).unwrap();
    assert_eq!(read(&path).unwrap().len(), 40);
    let text = b"row 25 of a file";
    let at = bytes.windows(text.len()).rposition(|window| window == text).unwrap();
    bytes[at + 4] ^= 1; // row 35
    let found = ["a.parquet as Parquet: row groups 0 to 1", "CRC"];
    check_error("a.parquet", &bytes, &found);
}

#[test]
fn inputs_stand_in_the_byte_order_of_their_relative_paths() {
    let dir = tempfile::tempdir().unwrap();
    for name in
        ["b/1.jsonl", "B.jsonl", "a.jsonl.zst", "é.parquet", "b.jsonl", "notes.md", ".hidden.jsonl"]
    {
        file(dir.path(), name, "x");
    }
    let names = |arguments: &[&str]| {
        let paths: Vec<_> = arguments.iter().map(|name| dir.path().join(name)).collect();
        let inputs = pipeline::read::inputs::find(&paths).map_err(|err| err.to_string())?;
        Ok::<_, String>(inputs.into_iter().map(|input| input.name).collect::<Vec<_>>())
    };
    let all = ["B.jsonl", "a.jsonl.zst", "b.jsonl", "b/1.jsonl", "é.parquet"];
    assert_eq!(names(&[""]).unwrap(), all);
    assert_eq!(names(&["b.jsonl", "B.jsonl"]).unwrap(), ["B.jsonl", "b.jsonl"]);
    assert_eq!(names(&["*.jsonl"]).unwrap(), ["B.jsonl", "b.jsonl"]);
    assert_eq!(names(&["**/*.jsonl"]).unwrap(), ["B.jsonl", "b.jsonl", "b/1.jsonl"]);
    assert_eq!(names(&["b"]).unwrap(), ["1.jsonl"]);
    for (arguments, said) in [
        (&["b.jsonl", "b.jsonl"][..], "are both input \"b.jsonl\""),
        (&["b.jsonl", "*.jsonl"], "are both input \"b.jsonl\""),
        (&["none.jsonl"], "no such file or folder"),
        (&["*.gz"], "no file matches"),
        (&["notes.md"], "unknown kind"),
        (&["[z.jsonl"], "not a valid glob"),
    ] {
        let error = names(arguments).unwrap_err();
        assert!(error.contains(said), "{arguments:?}: {error}");
    }
    fs::create_dir(dir.path().join("empty")).unwrap();
    assert!(names(&["empty"]).unwrap_err().contains("holds no input"));
}
