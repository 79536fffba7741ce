//! Documents of inputs, as read by other people's code.

use std::fs;
use std::io::Read;
use std::path::Path;

use arrow::array::AsArray;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::support::inputs::OwnedDoc;

/// The documents of an input, read without any of our code.
pub(crate) fn documents(path: &Path) -> Vec<OwnedDoc> {
    let bytes = fs::read(path).unwrap();
    let name = path.display().to_string();
    if name.ends_with(".parquet") {
        return rows(path);
    }
    let mut text = String::new();
    if name.ends_with(".zst") {
        zstd::stream::read::Decoder::new(bytes.as_slice())
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
    } else {
        text = String::from_utf8(bytes).unwrap();
    }
    let line = |(row, line): (u64, &str)| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let set_name = value["meta"]["pile_set_name"].as_str().map(str::to_owned);
        (row, value["text"].as_str().unwrap().to_owned(), set_name)
    };
    (1..).zip(text.split_terminator('\n')).map(line).collect()
}

fn rows(path: &Path) -> Vec<OwnedDoc> {
    let file = fs::File::open(path).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let mut documents = Vec::new();
    for batch in reader {
        let batch = batch.unwrap();
        let texts = batch.column_by_name("text").unwrap().as_string::<i32>();
        let meta = batch.column_by_name("meta").unwrap().as_struct();
        let sets = meta.column_by_name("pile_set_name").unwrap().as_string::<i32>();
        for (text, set) in texts.iter().zip(sets.iter()) {
            let row = documents.len() as u64 + 1;
            documents.push((row, text.unwrap().to_owned(), set.map(str::to_owned)));
        }
    }
    documents
}
