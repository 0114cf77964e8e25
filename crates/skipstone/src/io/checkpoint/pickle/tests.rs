use super::*;

fn parse(bytes: &[u8]) -> Result<Pickle> {
    Pickle::parse(bytes).map(|(p, _)| p)
}

/// The persistent id of a storage of `numel` floats, in protocol 2.
fn storage(numel: u8) -> Vec<u8> {
    let mut p = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK".to_vec();
    p.extend([numel, b't', b'Q']);
    p
}

/// `function(storage, 1, (2, 3), (3, 1), …)`.
fn tensor(function: &str, rest: &[u8]) -> Vec<u8> {
    let mut p = format!("ctorch._utils\n{function}\n(").into_bytes();
    p.extend(storage(7));
    p.extend(b"K\x01K\x02K\x03\x86K\x03K\x01\x86");
    p.extend(rest);
    p.extend(b"tR.");
    p
}

#[test]
fn both_ages_of_tensor_are_understood() {
    for bytes in [tensor("_rebuild_tensor", b""), tensor("_rebuild_tensor_v2", b"\x89ccollections\nOrderedDict\n)R")] {
        let pickle = parse(&bytes).unwrap();
        let Some(Node::Tensor(t)) = pickle.node(pickle.root) else { panic!("no tensor") };
        assert_eq!((t.offset, &t.shape[..], &t.strides[..]), (1, &[2, 3][..], &[3, 1][..]));
        let storage = pickle.storage(t.storage).unwrap();
        assert_eq!((storage.key.as_str(), &storage.dtype, storage.numel), ("0", &Dtype::F32, 7));
    }
}

#[test]
fn a_parameter_is_its_tensor() {
    let mut bytes = b"ctorch._utils\n_rebuild_parameter\n(".to_vec();
    let inner = tensor("_rebuild_tensor", b"");
    bytes.extend(&inner[..inner.len() - 1]);
    bytes.extend(b"\x88NtR.");
    let pickle = parse(&bytes).unwrap();
    assert!(matches!(pickle.node(pickle.root), Some(Node::Tensor(_))));
}

#[test]
fn an_ordered_dictionary_comes_in_the_python_2_and_the_python_3_form() {
    for bytes in [
        &b"ccollections\nOrderedDict\n)R(X\x01\0\0\0aK\x05u."[..],
        b"ccollections\nOrderedDict\n((lp0\n(lp1\nS'a'\naI5\naatR.",
    ] {
        let pickle = parse(bytes).unwrap();
        assert_eq!(pickle.dict(pickle.root).unwrap().last().map(|&(_, v)| v), Some(Value::Int(5)));
    }
}

#[test]
fn a_call_of_anything_else_is_opaque_and_not_made() {
    let marker = std::env::temp_dir().join(format!("skipstone-pickle-{}", std::process::id()));
    let command = format!("touch {}", marker.display());
    for (module, name) in [("os", "system"), ("posix", "system"), ("builtins", "eval"), ("torch.hub", "load")] {
        let mut bytes = format!("c{module}\n{name}\n(X").into_bytes();
        bytes.extend((command.len() as u32).to_le_bytes());
        bytes.extend(command.bytes());
        bytes.extend(b"tR.");
        assert_eq!(parse(&bytes).unwrap().root, Value::Opaque, "{module}.{name}");
    }
    // The same through INST, OBJ, NEWOBJ and STACK_GLOBAL.
    for bytes in [
        &b"(X\x02\0\0\0lsios\nsystem\n."[..],
        b"(cos\nsystem\nX\x02\0\0\0lso.",
        b"cos\nsystem\nX\x02\0\0\0ls\x85\x81.",
        b"X\x02\0\0\0osX\x06\0\0\0system\x93X\x02\0\0\0ls\x85R.",
        b"cos\nsystem\n)}\x92.",
    ] {
        assert_eq!(parse(bytes).unwrap().root, Value::Opaque);
    }
    assert!(!marker.exists());
}

#[test]
fn state_and_items_of_an_unknown_object_are_let_go() {
    let bytes = b"ccollections\ndefaultdict\n)RX\x01\0\0\0aK\x01s(X\x01\0\0\0bK\x02u}b.";
    assert_eq!(parse(bytes).unwrap().root, Value::Opaque);
}

#[test]
fn nesting_of_any_depth_is_survived() {
    let deep = 1_000_000;
    let mut bytes = vec![b']'; deep];
    bytes.extend(vec![b'a'; deep - 1]);
    bytes.push(b'.');
    assert!(parse(&bytes).is_ok());
    let mut marks = vec![b'('; deep];
    marks.extend(vec![b't'; deep]);
    marks.push(b'.');
    assert!(parse(&marks).is_ok());
}

#[test]
fn a_list_that_contains_itself_is_survived() {
    let pickle = parse(b"]q\0h\0a.").unwrap();
    assert_eq!(pickle.sequence(pickle.root), Some(&[pickle.root][..]));
}

#[test]
fn doubling_through_the_memo_costs_nothing() {
    // Each level refers to the one below twice, which would make 2^60 leaves if copied.
    let mut bytes = b"]q\0".to_vec();
    for _ in 0..60 {
        bytes.extend(b"h\0h\0\x86q\0");
    }
    bytes.push(b'.');
    assert!(parse(&bytes).is_ok());
}

#[test]
fn copying_one_long_dictionary_many_times_is_refused() {
    let mut bytes = b"(".to_vec();
    bytes.extend(b"K\x01K\x02\x86".repeat(100_000));
    bytes.extend(b"l\x85q\0ccollections\nOrderedDict\nq\x01");
    bytes.extend(b"h\x01h\0R0".repeat(100_000));
    bytes.push(b'.');
    let e = parse(&bytes).unwrap_err();
    assert!(e.message().contains("instructions"), "{e}");
}

#[test]
fn lengths_beyond_the_file_are_refused() {
    for bytes in [
        &b"X\xff\xff\xff\xffabc."[..],
        b"T\xff\xff\xff\xffabc.",
        b"B\xff\xff\xff\xffabc.",
        b"\x8b\xff\xff\xff\xff\x01.",
        b"\x8a\xff\x01.",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc.",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
        b"\x96\xff\xff\xff\xff\xff\xff\xff\xffabc.",
        b"r\xff\xff\xff\xff.",
        b"j\xff\xff\xff\xff.",
    ] {
        assert!(parse(bytes).is_err(), "{bytes:?}");
    }
}

#[test]
fn what_is_no_pickle_is_refused() {
    for bytes in [
        &b""[..],
        b".",
        b"N",
        b"\xff.",
        b"\x82\x01.",
        b"a.",
        b"N(a.",
        b"(t(.",
        b"t.",
        b"}K\x01u.",
        b"}(K\x01u.",
        b"K\x01K\x02s.",
        b"N\x86.",
        b"NR.",
        b"NQ.",
        b"K\x01(K\x02\x86.",
        b"h\0.",
        b"gx\n.",
        b"ctorch\n",
        b"X\x01\0\0\0\xff.",
        b"NN\x93.",
    ] {
        assert!(parse(bytes).is_err(), "{:?}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn tensors_of_impossible_shapes_are_refused() {
    let with = |arguments: &[u8]| {
        let mut p = b"ctorch._utils\n_rebuild_tensor_v2\n(".to_vec();
        p.extend(storage(7));
        p.extend(arguments);
        p.extend(b"tR.");
        parse(&p)
    };
    assert!(with(b"K\0K\x07\x85K\x01\x85").is_ok());
    for (arguments, what) in [
        (&b"K\0J\xff\xff\xff\xff\x85K\x01\x85"[..], "dimension -1"),
        (b"K\0K\x07\x85J\xff\xff\xff\xff\x85", "dimension -1"),
        (b"J\xff\xff\xff\xffK\x07\x85K\x01\x85", "offset -1"),
        (b"K\0K\x07\x85)", "differ in length"),
        (b"K\0(K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01t)", "at most 8"),
        (b"NK\x07\x85K\x01\x85", "offset"),
        (b"K\0K\x07K\x01\x85", "at most 8"),
        (b"K\0", "lacks"),
    ] {
        let e = with(arguments).unwrap_err();
        assert!(e.message().contains(what), "{e}");
    }
}

#[test]
fn a_pickle_cut_or_damaged_anywhere_never_panics() {
    let bytes = tensor("_rebuild_tensor_v2", b"\x89ccollections\nOrderedDict\n)R");
    for end in 0..bytes.len() {
        assert!(parse(&bytes[..end]).is_err(), "cut at {end}");
    }
    for at in 0..bytes.len() {
        for value in 0..=255 {
            let mut damaged = bytes.clone();
            damaged[at] = value;
            let _ = parse(&damaged);
        }
    }
}

#[test]
fn long_integers_keep_their_sign() {
    assert_eq!(parse(b"\x8a\x01\xff.").unwrap().root, Value::Int(-1));
    assert_eq!(parse(b"\x8a\x02\xff\x00.").unwrap().root, Value::Int(255));
    assert_eq!(parse(b"\x8a\x00.").unwrap().root, Value::Int(0));
    assert_eq!(parse(b"L-12L\n.").unwrap().root, Value::Int(-12));
}
