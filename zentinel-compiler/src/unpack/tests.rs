use super::*;
use crate::archive::{Archive, compress};
use crate::source::{Source, SourceFile};
use proptest::prelude::*;

fn packed() -> Archive {
    let files =
        vec![SourceFile::new("ca/root.pem", "-----BEGIN"), SourceFile::new("plugins/a.wasm", vec![3; 1_500])];
    let source = Source::new("system {\n}\n", files, false).unwrap();
    Archive::pack(&source, b"{\"bomFormat\":\"CycloneDX\"}").unwrap()
}

fn tar_of(archive: &Archive) -> Vec<u8> {
    zstd::bulk::decompress(archive.bytes(), 1 << 20).unwrap()
}

/// Changes the tar file of a good archive and reads the result.
fn after(change: impl FnOnce(&mut Vec<u8>)) -> Result<Unpacked> {
    let mut tar = tar_of(&packed());
    change(&mut tar);
    unpack(&compress(&tar).unwrap(), &UnpackLimits::default())
}

/// Rewrites the header at `offset` with a valid checksum.
fn rewrite(tar: &mut [u8], offset: usize, change: impl FnOnce(&mut tar::Header)) {
    let mut header = tar::Header::from_byte_slice(&tar[offset..offset + BLOCK]).clone();
    change(&mut header);
    header.set_cksum();
    tar[offset..offset + BLOCK].copy_from_slice(header.as_bytes());
}

/// Where the entry with this path starts.
fn offset_of(tar: &[u8], path: &str) -> usize {
    let start = |block: &&[u8]| block.starts_with(path.as_bytes()) && block[path.len()] == 0;
    tar.chunks(BLOCK).position(|block| start(&block)).unwrap() * BLOCK
}

fn refused(result: Result<Unpacked>, kind: Kind, says: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.message().contains(says), "{error} does not say {says:?}");
}

#[test]
fn what_was_packed_comes_back() {
    let archive = packed();
    let unpacked = unpack(archive.bytes(), &UnpackLimits::default()).unwrap();
    assert_eq!(&unpacked.manifest, archive.manifest());
    assert_eq!(unpacked.config().unwrap(), "system {\n}\n");
    assert_eq!(unpacked.files["plugins/a.wasm"].len(), 1_500);
    assert_eq!(unpacked.files.len(), 4);
}

#[test]
fn entries_that_are_not_plain_files_are_refused() {
    for kind in [b'1', b'2', b'3', b'4', b'5', b'6', b'7', b'x', b'g', b'L', b'K', b'S'] {
        let result = after(|tar| {
            let offset = offset_of(tar, "ca/root.pem");
            rewrite(tar, offset, |header| header.set_entry_type(tar::EntryType::new(kind)));
        });
        refused(result, Kind::Malformed, "only plain files");
    }
}

#[test]
fn paths_that_leave_the_folder_are_refused() {
    for path in ["../root.pem", "/etc/passwd", "ca/../../x", "ca//x", "./x", "ca\\x"] {
        let result = after(|tar| {
            let offset = offset_of(tar, "ca/root.pem");
            rewrite(tar, offset, |header| {
                let name = &mut header.as_old_mut().name;
                name.fill(0);
                name[..path.len()].copy_from_slice(path.as_bytes());
            });
        });
        refused(result, Kind::Malformed, "path");
    }
}

#[test]
fn any_difference_in_a_header_is_refused() {
    type Change = fn(&mut tar::Header);
    let changes: [Change; 6] = [
        |header| header.set_mode(0o755),
        |header| header.set_mtime(1),
        |header| header.set_uid(1),
        |header| header.set_gid(1),
        |header| header.set_username("root").unwrap(),
        |header| header.set_device_major(1).unwrap(),
    ];
    for change in changes {
        let result = after(|tar| {
            let offset = offset_of(tar, "ca/root.pem");
            rewrite(tar, offset, change);
        });
        refused(result, Kind::Malformed, "not canonical");
    }
}

#[test]
fn content_that_is_not_the_listed_one_is_refused() {
    let flip = |path: &'static str| {
        after(move |tar| {
            let offset = offset_of(tar, path);
            tar[offset + BLOCK] ^= 1;
        })
    };
    refused(flip("ca/root.pem"), Kind::Malformed, "listed digest");
    refused(flip("zentinel.kdl"), Kind::Malformed, "listed digest");
    refused(flip("manifest.json"), Kind::Malformed, "manifest.json");
    let padding = after(|tar| {
        let offset = offset_of(tar, "ca/root.pem");
        tar[offset + BLOCK + 20] = 1;
    });
    refused(padding, Kind::Malformed, "padded");
}

#[test]
fn more_or_less_than_the_manifest_lists_is_refused() {
    let duplicate = after(|tar| {
        let offset = offset_of(tar, "ca/root.pem");
        let entry = tar[offset..offset + 2 * BLOCK].to_vec();
        tar.splice(offset..offset, entry);
    });
    refused(duplicate, Kind::Malformed, "where its manifest lists");
    let more = after(|tar| {
        let offset = offset_of(tar, "ca/root.pem");
        let entry = tar[offset..offset + 2 * BLOCK].to_vec();
        let end = tar.len() - TRAILER;
        tar.splice(end..end, entry);
    });
    refused(more, Kind::Malformed, "more than its manifest lists");
    let less = after(|tar| {
        let offset = offset_of(tar, "plugins/a.wasm");
        tar.truncate(offset);
        tar.resize(offset + TRAILER, 0);
    });
    refused(less, Kind::Malformed, "ends before");
    refused(after(|tar| tar.push(0)), Kind::Malformed, "more than");
    refused(after(Vec::clear), Kind::Malformed, "");
    let no_manifest = after(|tar| {
        let end = offset_of(tar, "zentinel.kdl");
        tar.drain(..end);
    });
    refused(no_manifest, Kind::Malformed, "first entry");
}

#[test]
fn bombs_are_refused_before_they_are_unpacked() {
    let zeros = compress(&vec![0; 64 << 20]).unwrap();
    refused(unpack(&zeros, &UnpackLimits::default()), Kind::TooLarge, "times its size");
    let zeros = compress(&vec![0; 81 << 20]).unwrap();
    refused(unpack(&zeros, &UnpackLimits::default()), Kind::TooLarge, "83886080");
    let tight = UnpackLimits { file_bytes: 1_000, ..UnpackLimits::default() };
    refused(unpack(packed().bytes(), &tight), Kind::TooLarge, "plugins/a.wasm");
    let few = UnpackLimits { files: 3, ..UnpackLimits::default() };
    refused(unpack(packed().bytes(), &few), Kind::TooLarge, "lists 4 files");
    let small = UnpackLimits { archive_bytes: 10, ..UnpackLimits::default() };
    refused(unpack(packed().bytes(), &small), Kind::TooLarge, "at most 10");
}

#[test]
fn frames_that_hide_something_are_refused() {
    let archive = packed();
    let limits = UnpackLimits::default();
    let twice = [archive.bytes().as_ref(), archive.bytes().as_ref()].concat();
    refused(unpack(&twice, &limits), Kind::Malformed, "after its frame");
    let skippable = [&[0x50, 0x2A, 0x4D, 0x18, 0, 0, 0, 0][..], archive.bytes()].concat();
    refused(unpack(&skippable, &limits), Kind::Malformed, "not a zstd frame");
    refused(unpack(b"", &limits), Kind::Malformed, "not a zstd frame");
    let mut compressor = zstd::bulk::Compressor::new(3).unwrap();
    compressor.set_parameter(zstd_safe::CParameter::ContentSizeFlag(false)).unwrap();
    let unsized_frame = compressor.compress(&tar_of(&archive)).unwrap();
    refused(unpack(&unsized_frame, &limits), Kind::Malformed, "how large");
}

#[test]
fn a_manifest_with_other_rules_is_refused() {
    let with = |change: fn(&mut Manifest)| {
        let mut manifest = packed().manifest().clone();
        change(&mut manifest);
        check_manifest(&manifest, &UnpackLimits::default()).unwrap_err()
    };
    assert!(with(|m| m.schema_version = 2).message().contains("schema version"));
    assert!(with(|m| m.files.swap(2, 3)).message().contains("by path"));
    assert!(with(|m| m.files.swap(0, 1)).message().contains("first"));
    assert!(with(|m| m.files.push(m.files[3].clone())).message().contains("twice"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_changed_archive_never_panics_and_never_passes(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), 1_u8..), 1..4),
    ) {
        let archive = packed();
        let mut bytes = archive.bytes().to_vec();
        for (at, change) in &changes {
            let at = at.index(bytes.len());
            bytes[at] ^= *change;
        }
        if bytes != archive.bytes().as_ref()
            && let Ok(unpacked) = unpack(&bytes, &UnpackLimits::default())
        {
            // A frame may be written in several ways; what it holds may not differ.
            prop_assert_eq!(&unpacked.manifest, archive.manifest());
        }
    }

    #[test]
    fn a_changed_tar_file_never_passes(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), 1_u8..), 1..4),
    ) {
        let original = tar_of(&packed());
        let mut tar = original.clone();
        for (at, change) in &changes {
            let at = at.index(tar.len());
            tar[at] ^= *change;
        }
        if tar != original {
            let result = unpack(&compress(&tar).unwrap(), &UnpackLimits::default());
            // The manifest is the one file that nothing in the archive vouches for: the signed
            // statement does, over the whole archive.
            let manifest_end = offset_of(&original, "zentinel.kdl");
            let only_manifest = tar[manifest_end..] == original[manifest_end..];
            prop_assert!(result.is_err() || only_manifest);
        }
    }

    #[test]
    fn cut_and_spliced_archives_never_panic(cut in any::<prop::sample::Index>(), tail in proptest::collection::vec(any::<u8>(), 0..64)) {
        let bytes = packed().bytes().to_vec();
        let mut cut = bytes[..cut.index(bytes.len())].to_vec();
        cut.extend(tail);
        let result = unpack(&cut, &UnpackLimits::default());
        prop_assert!(result.is_err());
    }

    #[test]
    fn whatever_can_be_packed_can_be_unpacked(
        config in "\\PC{0,200}",
        files in proptest::collection::btree_map("[a-z]{1,6}(/[a-z]{1,6}\\.pem)?", proptest::collection::vec(any::<u8>(), 0..2_000), 0..6),
    ) {
        let files: Vec<_> = files.into_iter().map(|(path, bytes)| SourceFile::new(path, bytes)).collect();
        if let Ok(source) = Source::new(config.clone(), files, false) {
            let archive = Archive::pack(&source, b"{}").unwrap();
            let unpacked = unpack(archive.bytes(), &UnpackLimits::default()).unwrap();
            prop_assert_eq!(unpacked.config().unwrap(), config);
        }
    }
}
