//! `patchmill` reads Parquet through a process of its own.

use std::fs;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;

use crate::support::{assert_fails, fixtures, patchmill, stderr, stdout, tokenizer};

fn tokenize(out: &Path, input: &Path) -> Output {
    tokenize_up_to("1000000", out, input)
}

/// With this maximum of bytes a document.
fn tokenize_up_to(document_bytes_max: &str, out: &Path, input: &Path) -> Output {
    let mut command = patchmill();
    command.arg("tokenize").arg("--json").arg("--tokenizer").arg(tokenizer());
    command.args(["--max-document-bytes", document_bytes_max]);
    command.arg("--out").arg(out).arg(input).output().unwrap()
}

#[test]
fn rows_of_a_good_file_come_through_the_pipe() {
    let path = fixtures().join("parquet/checksums.parquet");
    let mut command = patchmill();
    command.args(["read-parquet", "--text-column", "text", "--"]).arg(&path);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let stdin = child.stdin.take(); // its end would end the child
    let frames = child.wait_with_output().unwrap().stdout;
    drop(stdin);
    assert_eq!(frames[..9], *b"H\x28\0\0\0\0\0\0\0", "a head with 40 rows");
    assert_eq!((frames[9], frames.last()), (b'C', Some(&b'E')));
    let dir = tempfile::tempdir().unwrap();
    let report = stdout(&tokenize(&dir.path().join("out"), &path));
    assert!(report.contains("\"documents_written\":40"), "{report}");
}

#[test]
fn a_damaged_file_is_an_error_of_that_file() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = fs::read(fixtures().join("parquet/checksums.parquet")).unwrap();
    let path = dir.path().join("cut.parquet");
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let output = tokenize(&dir.path().join("out"), &path);
    assert_fails(&output, 1, "cut.parquet as Parquet: ");
    let error = stderr(&output);
    assert!(!error.contains("the process that decodes it"), "it said why: {error}");
}

/// Thousands of rows of one value: 4 MB in the file and 4 GB in a batch, twice the child's limit.
#[test]
fn a_file_that_takes_more_memory_than_there_may_be_is_an_error_of_that_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.parquet");
    let schema =
        parquet::schema::parser::parse_message_type("message m { required binary text (UTF8); }");
    let properties = WriterProperties::builder()
        .set_dictionary_page_size_limit(1 << 30)
        .set_statistics_enabled(EnabledStatistics::None)
        .build();
    let file = fs::File::create(&path).unwrap();
    let mut writer =
        SerializedFileWriter::new(file, Arc::new(schema.unwrap()), Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let values = vec![ByteArray::from(vec![b'x'; 4 << 20]); 4096];
    column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    assert!(fs::metadata(&path).unwrap().len() < 10 << 20);
    let output = tokenize_up_to("1000", &dir.path().join("out"), &path);
    assert_fails(&output, 1, "large.parquet as Parquet: the process that decodes it");
    assert_fails(&output, 1, "memory");
}
