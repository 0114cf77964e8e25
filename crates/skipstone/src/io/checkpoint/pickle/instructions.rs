//! The effect of each instruction.

use super::machine::Machine;
use super::{MAX_NAME, Node, Value, bad};
use crate::error::Result;

fn global(module: &str, name: &str) -> Result<Node> {
    if module.len() + name.len() > MAX_NAME {
        return Err(bad("a name is too long"));
    }
    Ok(Node::Global(module.to_owned(), name.to_owned()))
}

impl Machine<'_> {
    /// Executes one instruction.
    pub fn step(&mut self, op: u8) -> Result<()> {
        match op {
            // protocol and frames
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            // the stack
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                // If a mark is on top, POP removes the mark.
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            b'1' => drop(self.pop_mark()?),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            // the memo
            b'q' | b'r' | b'p' => {
                let key = self.memo_key(op)?;
                self.put(key)?;
            }
            b'h' | b'j' | b'g' => {
                let key = self.memo_key(op)?;
                self.get(key)?;
            }
            0x94 => self.put(self.memo.len() as u64)?,
            // numbers
            b'N' => self.stack.push(Value::None),
            0x88 | 0x89 => self.stack.push(Value::Bool),
            b'J' | b'K' | b'M' => {
                let n = match op {
                    b'J' => i32::from_le_bytes(self.array()?).into(),
                    b'K' => self.take(1)?[0].into(),
                    _ => u16::from_le_bytes(self.array()?).into(),
                };
                self.stack.push(Value::Int(n));
            }
            b'I' | b'L' => {
                let line = self.line()?;
                let value = match line {
                    "00" | "01" if op == b'I' => Value::Bool,
                    _ => line.strip_suffix('L').unwrap_or(line).parse().map_or(Value::Opaque, Value::Int),
                };
                self.stack.push(value);
            }
            0x8a => {
                let n = self.take(1)?[0];
                self.long(n.into())?;
            }
            0x8b => {
                let n = u32::from_le_bytes(self.array()?);
                self.long(n.into())?;
            }
            b'F' => {
                self.line()?;
                self.stack.push(Value::Opaque);
            }
            b'G' => {
                self.take(8)?;
                self.stack.push(Value::Opaque);
            }
            _ => self.step_text(op)?,
        }
        Ok(())
    }

    fn memo_key(&mut self, op: u8) -> Result<u64> {
        Ok(match op {
            b'q' | b'h' => self.take(1)?[0].into(),
            b'r' | b'j' => u32::from_le_bytes(self.array()?).into(),
            _ => self.line()?.parse().map_err(|_| bad("a memo key is not a number"))?,
        })
    }

    fn step_text(&mut self, op: u8) -> Result<()> {
        let bytes = match op {
            0x8c | b'U' | b'C' => {
                let n = self.take(1)?[0];
                self.take(n.into())?
            }
            b'X' | b'T' | b'B' => {
                let n = u32::from_le_bytes(self.array()?);
                self.counted(n.into())?
            }
            0x8d | 0x8e | 0x96 => {
                let n = u64::from_le_bytes(self.array()?);
                self.counted(n)?
            }
            b'V' => self.line()?.as_bytes(),
            b'S' => {
                let line = self.line()?;
                line.get(1..line.len().saturating_sub(1)).unwrap_or_default().as_bytes()
            }
            _ => return self.step_container(op),
        };
        match op {
            b'X' | 0x8c | 0x8d | b'V' => self.text(bytes)?,
            b'S' | b'T' | b'U' => self.byte_string(bytes),
            // raw bytes, not needed
            _ => self.stack.push(Value::Opaque),
        }
        Ok(())
    }

    fn step_container(&mut self, op: u8) -> Result<()> {
        match op {
            b']' | b')' | 0x8f => self.push(Node::Sequence(Vec::new())),
            b'l' | b't' | 0x91 => {
                let items = self.pop_mark()?;
                self.push(Node::Sequence(items));
            }
            0x85..=0x87 => {
                let n = usize::from(op - 0x84);
                if self.stack.len() < self.floor() + n {
                    return Err(bad("the stack is empty"));
                }
                let items = self.stack.split_off(self.stack.len() - n);
                self.push(Node::Sequence(items));
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.pop_mark()?;
                self.extend(items)?;
            }
            b'}' => self.push(Node::Dict(Vec::new())),
            b'd' => {
                let items = self.pop_mark()?;
                self.push(Node::Dict(Vec::new()));
                self.insert(&items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.insert(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.insert(&items)?;
            }
            _ => self.step_object(op)?,
        }
        Ok(())
    }

    fn step_object(&mut self, op: u8) -> Result<()> {
        match op {
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(global(module, name)?);
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let node = match (self.pickle.str(module), self.pickle.str(name)) {
                    (Some(module), Some(name)) => global(module, name)?,
                    _ => return Err(bad("a name is not a string")),
                };
                self.push(node);
            }
            b'R' | 0x81 => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                let value = self.reduce(function, arguments)?;
                self.stack.push(value);
            }
            0x92 => {
                let (_, _, _) = (self.pop()?, self.pop()?, self.pop()?);
                self.stack.push(Value::Opaque);
            }
            b'i' => {
                self.line()?;
                self.line()?;
                self.pop_mark()?;
                self.stack.push(Value::Opaque);
            }
            b'o' => {
                self.pop_mark()?;
                self.stack.push(Value::Opaque);
            }
            // BUILD sets attributes, such as a state dict's version numbers or an optimiser's settings.
            b'b' => {
                self.pop()?;
                self.top()?;
            }
            b'Q' => {
                let id = self.pop()?;
                let value = self.persistent(id)?;
                self.stack.push(value);
            }
            b'P' => {
                self.line()?;
                self.stack.push(Value::Opaque);
            }
            _ => return Err(bad(&format!("unknown instruction {op:#04x}"))),
        }
        Ok(())
    }
}
