//! Messages of protocol buffers, as far as ONNX needs them.
//!
//! A message is a list of fields. Each begins with its number and kind, (number << 3 | kind); a nested message, a string or
//! a list of numbers is written with its length before it (<https://protobuf.dev/programming-guides/encoding>).

/// The fields of a message.
#[derive(Clone, Debug, Default)]
pub(super) struct Message(pub Vec<u8>);

impl Message {
    /// An integer, in groups of seven bits, lowest first.
    pub fn int(mut self, field: u64, value: i64) -> Self {
        self.varint(field << 3);
        // Negative numbers take ten bytes.
        self.varint(value as u64);
        self
    }

    /// A float32.
    pub fn float(mut self, field: u64, value: f32) -> Self {
        self.varint(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Bytes, or a text.
    pub fn bytes(mut self, field: u64, value: impl AsRef<[u8]>) -> Self {
        self = self.open(field, value.as_ref().len() as u64);
        self.0.extend(value.as_ref());
        self
    }

    /// A nested message.
    pub fn message(self, field: u64, value: &Self) -> Self {
        self.bytes(field, &value.0)
    }

    /// The beginning of `len` bytes, which follow this message in the file.
    pub fn open(mut self, field: u64, len: u64) -> Self {
        self.varint(field << 3 | 2);
        self.varint(len);
        self
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of the encoding's documentation.
    #[test]
    fn fields_are_encoded_as_documented() {
        assert_eq!(Message::default().int(1, 150).0, [0x08, 0x96, 0x01]);
        assert_eq!(Message::default().bytes(2, "testing").0, *b"\x12\x07testing");
        let inner = Message::default().int(1, 150);
        assert_eq!(Message::default().message(3, &inner).0, [0x1a, 0x03, 0x08, 0x96, 0x01]);
        assert_eq!(Message::default().int(1, -2).0, *b"\x08\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01");
        assert_eq!(Message::default().float(1, 1.0).0, [0x0d, 0, 0, 0x80, 0x3f]);
    }
}
