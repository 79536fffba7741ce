//! Real corpora hold more than plain documents. Each awkward input gives its documents or its exact
//! error.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BinaryViewArray, Int64Array, LargeBinaryArray, RecordBatch, StringArray,
};
use arrow::datatypes::DataType;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::{WriterProperties, WriterVersion};
use pipeline::read::documents::{Columns, Docs};

use crate::support::inputs::{OwnedDoc, file, gz, line, read, read_columns, tokenize, zst};

/// Row, text, set name and surrogates replaced of each document; reading begins at `first_row`.
fn read_from(path: &Path, first_row: u64) -> Result<Vec<(OwnedDoc, u64)>, String> {
    let input = pipeline::read::inputs::find(&[path.to_owned()]).unwrap().remove(0);
    let columns = Columns::default();
    let mut docs = Docs::open(&input, &columns).map_err(|err| err.to_string())?;
    docs.skip_to(first_row).map_err(|err| err.to_string())?;
    let mut found = Vec::new();
    while let Some(chunk) = docs.next_chunk().map_err(|err| err.to_string())? {
        for doc in chunk.docs(&columns) {
            let doc = doc.map_err(|refusal| refusal.to_string())?;
            let set_name = doc.set_name.map(|name| name.into_owned());
            found.push(((doc.row, doc.text.into_owned(), set_name), doc.surrogates_replaced));
        }
    }
    Ok(found)
}

/// Each line is one document with this text, set name and number of surrogates replaced.
#[test]
fn awkward_lines_are_documents() {
    let dir = tempfile::tempdir().unwrap();
    let digits = "9".repeat(300);
    let big = format!(r#"{{"score": 1e999, "id": {digits}, "text": "t"}}"#);
    let deep = format!(r#"{{"x": {}{}, "text": "t"}}"#, "[".repeat(1000), "]".repeat(1000));
    for (line, text, set, replaced) in [
        (r#"{"text": "\u00e9\u6f22\ud83d\ude00"}"#, "é漢😀", None, 0),
        (r#"{"text": "é漢😀"}"#, "é漢😀", None, 0),
        (
            r#"{"text": "a\ud800b\udfffc\ud800\ud800\udc00"}"#,
            "a\u{fffd}b\u{fffd}c\u{fffd}\u{10000}",
            None,
            3,
        ),
        (r#"{"text": "\u0000a\u0000"}"#, "\0a\0", None, 0),
        ("\u{feff}{\"text\": \"a\"}", "a", None, 0),
        ("{\"text\": \"a\"}\r", "a", None, 0),
        ("  \t{ \"text\" : \"a\" } \t ", "a", None, 0),
        (r#"{"text": "a", "text": "b", "x": {"text": "c"}}"#, "b", None, 0),
        (r#"{"a": [1, null, {}], "text": "t", "z": {"text": []}}"#, "t", None, 0),
        (r#"{"text": "t", "meta": null}"#, "t", None, 0),
        (r#"{"text": "t", "meta": "Pile-CC"}"#, "t", None, 0),
        (r#"{"text": "t", "meta": [1, 2]}"#, "t", None, 0),
        (r#"{"text": "t", "meta": 1e999}"#, "t", None, 0),
        (r#"{"text": "t", "meta": NaN, "x": [Infinity, {"y": -Infinity}]}"#, "t", None, 0),
        (r#"{"text": "t", "meta": {"pile_set_name": 7}}"#, "t", None, 0),
        (r#"{"meta": {"x": 1, "pile_set_name": "S\u00e9"}, "text": "t"}"#, "t", Some("Sé"), 0),
        (&big, "t", None, 0),
        (&deep, "t", None, 0),
        (r#"{"text": ""}"#, "", None, 0),
    ] {
        let expected = vec![((1, text.to_owned(), set.map(str::to_owned)), replaced)];
        let path = file(dir.path(), "a.jsonl", line);
        assert_eq!(read_from(&path, 1).as_ref(), Ok(&expected), "{line}");
        let path = file(dir.path(), "a.jsonl.zst", zst(format!("{line}\n").as_bytes()));
        assert_eq!(read_from(&path, 1), Ok(expected), "{line}");
    }
}

/// The third line of a file, after a blank one, is refused with exactly this.
#[test]
fn awkward_lines_are_refused_with_file_line_byte_and_reason() {
    let dir = tempfile::tempdir().unwrap();
    let good = line("a", None);
    let deep = format!(r#"{{"x": {}"#, "[".repeat(2000));
    for (bad, reason) in [
        (&b"{\"text\": null}"[..], "\"text\" is null; expected a string"),
        (b"{\"text\": 7}", "\"text\" is a number; expected a string"),
        (
            b"{\"text\": NaN}",
            "\"text\" is NaN or Infinity at byte 9 of the line; expected a string",
        ),
        (b"{\"text\": true}", "\"text\" is a boolean; expected a string"),
        (b"{\"text\": [\"a\"]}", "\"text\" is an array; expected a string"),
        (b"{\"text\": {}}", "\"text\" is an object; expected a string"),
        (b"{\"txt\": \"a\"}", "the object has no key \"text\"; --text-column names another one"),
        (b"[1]", "found '[' at byte 0 of the line; expected an object"),
        (b"\"a\"", "found '\"' at byte 0 of the line; expected an object"),
        (b"not json", "found 'n' at byte 0 of the line; expected an object"),
        (b"{\"text\": \"a", "the line ends at its byte 11; expected '\"' at the end of the string"),
        (
            b"{\"text\": \"a\"} {}",
            "found '{' at byte 14 of the line; expected the end of the line after the object",
        ),
        (b"{\"text\": \"a\xed\xa0\x80\"}", "byte 11 of the line is 0xed, which is not UTF-8 there"),
        (
            b"{\"text\": \"a\0\"}",
            "found '\\0' at byte 11 of the line; expected an escape for it: \
             control characters cannot stand in a string",
        ),
        (
            b"{\"text\": \"\\u12\"}",
            "found '\"' at byte 14 of the line; expected four hexadecimal digits after \\u",
        ),
        (deep.as_bytes(), "more than 1024 levels of nesting at byte 1029 of the line"),
    ] {
        let text = [good.as_bytes(), b"\n", bad, b"\n", good.as_bytes()].concat();
        let place = format!("line 3 (from byte {} of the text)", good.len() + 1);
        for (name, bytes) in
            [("a.jsonl", text.clone()), ("a.jsonl.zst", zst(&text)), ("a.jsonl.gz", gz(&text))]
        {
            let path = file(dir.path(), name, bytes);
            let expected = format!("{}: {place}: {reason}", path.display());
            assert_eq!(read(&path).unwrap_err(), expected);
        }
    }
}

#[test]
fn frames_without_text_are_no_documents_and_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3].to_vec();
    let text = zst(line("a", None).as_bytes());
    for (parts, documents) in [
        (vec![zst(b"")], 0),
        (vec![skippable.clone()], 0),
        (vec![skippable.clone(), zst(b""), skippable.clone(), zst(b"")], 0),
        (vec![zst(b""), text.clone(), skippable, text, zst(b"")], 2),
    ] {
        let path = file(dir.path(), "a.jsonl.zst", parts.concat());
        assert_eq!(read(&path).unwrap().len(), documents);
    }
}

#[test]
fn frames_that_cannot_be_decoded_are_named_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let text = line("some text that is compressed", None);
    let first = zst(text.as_bytes());
    let at = first.len();
    let mut checksum = zst(text.as_bytes());
    *checksum.last_mut().unwrap() ^= 1;
    let dictionary = [0x28, 0xb5, 0x2f, 0xfd, 0x01, 0x58, 0x07, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 22 << 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (second, reason) in [
        (
            &checksum[..],
            format!(
                "the zstd frame at byte {at} cannot be decoded: \
                 Restored data doesn't match checksum"
            ),
        ),
        (
            &dictionary,
            format!(
                "the zstd frame at byte {at} was compressed with dictionary 7; expected one without"
            ),
        ),
        (
            &window,
            format!(
                "the zstd frame at byte {at} needs a window of 4294967296 bytes; \
                 at most 2147483648 are given"
            ),
        ),
        (
            b"{\"text\"",
            format!(
                "the zstd frame before byte {at} has ended, \
                 and [7b, 22, 74, 65] there begins no other"
            ),
        ),
    ] {
        let path = file(dir.path(), "a.jsonl.zst", [&*first, second].concat());
        let error = read(&path).unwrap_err();
        let start = format!("cannot read {} beyond byte ", path.display());
        assert!(error.starts_with(&start) && error.contains(&reason), "{error}");
        assert!(error.contains("line 2"), "{error}");
    }
}

/// With a checksum, damage is an error or changes nothing of importance.
#[test]
fn no_flipped_bit_of_a_compressed_file_changes_a_document() {
    let dir = tempfile::tempdir().unwrap();
    let text: String = (0..6).map(|row| line(&format!("document {row} of a file"), None)).collect();
    for (name, bytes) in
        [("a.jsonl.zst", zst(text.as_bytes())), ("a.jsonl.gz", gz(text.as_bytes()))]
    {
        let whole = read(&file(dir.path(), name, &bytes)).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            match read(&file(dir.path(), name, damaged)) {
                Ok(docs) => assert_eq!(docs, whole, "{name}: bit {bit}"),
                Err(error) => assert!(error.contains(name), "{error}"),
            }
        }
    }
}

/// A line that decompresses from a few bytes is not kept, and does not affect its neighbours.
#[test]
fn a_line_that_is_a_bomb_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let bomb = format!("{{\"text\": \"{}\"}}\n", "x".repeat(24 << 20));
    let text = [line("a", None), bomb.clone(), "\n".repeat(1 << 20), line("b", None)].concat();
    let bytes = zst(text.as_bytes());
    assert!(bytes.len() < 10_000, "it is a bomb: {}", bytes.len());
    let input = file(dir.path(), "a.jsonl.zst", bytes);
    let out = dir.path().join("out");
    let options = ["--max-document-bytes", "1000", "--on-error", "skip"];
    let report = tokenize(&out, &[&input], &options).unwrap();
    let totals = report.manifest.totals;
    assert_eq!((totals.documents_read, totals.documents_written), (3, 2));
    let list = std::fs::read_to_string(out.join("skipped.jsonl")).unwrap();
    let said = format!("the line is {} bytes, too long for a document of 1000", bomb.len());
    assert!(list.contains(&said), "{list}");
}

fn parquet_groups(path: &Path, columns: Vec<(&str, ArrayRef)>, properties: WriterProperties) {
    let columns = columns.into_iter().map(|(name, array)| (name, array, true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

#[test]
fn reading_goes_on_at_any_line_or_row() {
    let dir = tempfile::tempdir().unwrap();
    let long = "x".repeat(3000);
    let mut text = "\u{feff}".to_owned();
    for row in 0..500 {
        text.push_str(&line(&format!("{row} {}", &long[..row * 6]), None));
        text.push_str(["", "\n", "  \r\n"][row % 3]);
    }
    let texts: Vec<String> = (0..500).map(|row| format!("row {row}")).collect();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(70)).build();
    let path = dir.path().join("a.parquet");
    parquet_groups(&path, vec![("text", Arc::new(StringArray::from(texts)))], properties);
    for path in [
        file(dir.path(), "a.jsonl", &text),
        file(dir.path(), "b.jsonl", text.trim_end()),
        file(dir.path(), "a.jsonl.zst", zst(text.as_bytes())),
        file(dir.path(), "a.jsonl.gz", gz(text.as_bytes())),
        path,
    ] {
        let all = read_from(&path, 1).unwrap();
        assert_eq!(all.len(), 500, "{}", path.display());
        let last = all.last().unwrap().0.0;
        for first in [1, 2, 3, 70, 71, 72, 140, 141, 250, last - 1, last, last + 1] {
            let expected: Vec<_> = all.iter().filter(|doc| doc.0.0 >= first).cloned().collect();
            assert!(read_from(&path, first).unwrap() == expected, "{} {first}", path.display());
        }
        let error = read_from(&path, last + 3).unwrap_err();
        assert!(error.contains("the file changed, begin anew"), "{error}");
    }
}

#[test]
fn every_codec_and_page_version_of_parquet_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let texts: Vec<Option<String>> =
        (0..300).map(|row| (row != 299).then(|| format!("row {row} ").repeat(row % 9))).collect();
    let expected: Vec<String> = texts.iter().flatten().cloned().collect();
    let array: ArrayRef = Arc::new(StringArray::from(texts));
    for compression in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(Default::default()),
        Compression::BROTLI(Default::default()),
        Compression::LZ4_RAW,
        Compression::ZSTD(Default::default()),
    ] {
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            let path = dir.path().join("a.parquet");
            let properties = WriterProperties::builder()
                .set_compression(compression)
                .set_writer_version(version)
                .set_max_row_group_row_count(Some(64))
                .set_data_page_row_count_limit(20)
                .build();
            parquet_groups(&path, vec![("text", array.clone())], properties);
            let error = read(&path).unwrap_err();
            assert!(error.ends_with("row 300: the text is null; expected a string"), "{error}");
            let out = dir.path().join("out");
            let report = tokenize(&out, &[&path], &["--on-error", "skip", "--force"]).unwrap();
            assert_eq!(report.manifest.totals.documents_written, expected.len() as u64);
            assert_eq!(report.manifest.totals.documents_skipped, 1);
            assert_eq!(
                report.manifest.totals.text_bytes,
                expected.iter().map(|text| text.len() as u64).sum::<u64>()
            );
        }
    }
}

#[test]
fn bytes_in_parquet_are_text_where_they_are_utf8() {
    let dir = tempfile::tempdir().unwrap();
    let values: Vec<&[u8]> = vec![b"one", b"", "é\0".as_bytes(), b"ab\xff", b"one"];
    let plain = BinaryArray::from(values.clone());
    let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Binary));
    let dictionary = arrow::compute::cast(&plain, &dictionary).unwrap();
    let arrays: [ArrayRef; 4] = [
        Arc::new(plain),
        Arc::new(LargeBinaryArray::from(values.clone())),
        Arc::new(BinaryViewArray::from(values)),
        dictionary,
    ];
    for array in arrays {
        let path = dir.path().join("a.parquet");
        let name = array.data_type().to_string();
        parquet_groups(&path, vec![("text", array.slice(0, 3))], WriterProperties::default());
        let texts: Vec<String> = read(&path).unwrap().into_iter().map(|doc| doc.1).collect();
        assert_eq!(texts, ["one", "", "é\0"], "{name}");
        parquet_groups(&path, vec![("text", array)], WriterProperties::default());
        let error = read(&path).unwrap_err();
        let said = "row 4: the text is not UTF-8 from its byte 2 (0xff) on";
        assert!(error.ends_with(said), "{name}: {error}");
    }
}

#[test]
fn a_set_name_comes_from_json_in_a_string_column() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c", "d"]));
    let meta: ArrayRef = Arc::new(StringArray::from(vec![
        Some(r#"{"pile_set_name": "S"}"#),
        Some("c4"),
        None,
        Some(r#"{"pile_set_name": 1}"#),
    ]));
    parquet_groups(
        &path,
        vec![("text", texts.clone()), ("meta", meta)],
        WriterProperties::default(),
    );
    let sets = |columns: &Columns| {
        let docs = read_columns(&path, columns).unwrap();
        docs.into_iter().map(|doc| doc.2.unwrap_or_default()).collect::<Vec<_>>()
    };
    assert_eq!(sets(&Columns::default()), ["S", "", "", ""]);
    let set = Some("meta.pile_set_name".to_owned());
    assert_eq!(sets(&Columns { set, ..Columns::default() }), ["S", "", "", ""]);
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1; 4]));
    parquet_groups(&path, vec![("text", texts), ("meta", numbers)], WriterProperties::default());
    assert_eq!(sets(&Columns::default()), ["", "", "", ""]);
}
