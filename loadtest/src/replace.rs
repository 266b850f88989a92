//! Files that are replaced whole: a reader, or an interruption, may come at any time, and never finds half of one.

use std::fs;
use std::io;
use std::path::Path;

/// Writes `bytes` beside `path`, and renames that to `path`. What is there and is no file, such as `/dev/stdout`, is
/// written to instead.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
        return fs::write(path, bytes);
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn whoever_has_it_open_keeps_the_former_one_whole() {
        let directory = std::env::temp_dir().join(format!("stentor-load-replace-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("page.html");
        replace(&path, b"first").unwrap();
        let mut open = fs::File::open(&path).unwrap();
        replace(&path, b"second").unwrap();
        let mut read = String::new();
        open.read_to_string(&mut read).unwrap();
        assert_eq!((read.as_str(), fs::read_to_string(&path).unwrap().as_str()), ("first", "second"));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1, "nothing is left beside it");
        replace(Path::new("/dev/null"), b"gone").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
        fs::remove_dir_all(&directory).unwrap();
    }
}
