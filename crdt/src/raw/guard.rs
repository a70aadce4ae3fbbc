//! The reader that looks at a change before Automerge does: header, checksum position, and the number of rows that
//! every column asks for.

use crate::id::ChangeHash;
use crate::raw::OPERATIONS_MAX;
use crate::schema::PATH_BYTES_MAX;

const MAGIC: [u8; 4] = [0x85, 0x6f, 0x4a, 0x83];
const CHUNK_CHANGE: u8 = 1;
/// Most rows of a predecessor column: the superseded operations of all operations of a change.
pub(super) const PREDECESSORS_MAX: u64 = 4 * OPERATIONS_MAX;
const COLUMNS_MAX: u64 = 32;

/// Why the guard refuses bytes. Automerge has not seen them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GuardError {
    /// No magic bytes, or cut short.
    #[error("not an Automerge chunk")]
    Header,
    /// Another chunk than a plain change: a document, a compressed change, a bundle.
    #[error("chunk type {0} is refused: only plain changes are taken")]
    ChunkType(u8),
    /// A number or a column that runs past the end, or is not minimal.
    #[error("the change is cut short or malformed")]
    Malformed,
    /// A compressed or unknown column.
    #[error("a column has the unknown or compressed type {0}")]
    Column(u64),
    /// A column asks for more rows than a change may have.
    #[error("a column asks for more rows than a change may have")]
    Rows,
    /// Bytes after the chunk.
    #[error("there are bytes after the change")]
    Trailing,
}

/// A cursor over bytes that ends instead of panicking.
pub(super) struct Reader<'a> {
    pub(super) rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, count: u64) -> Result<&'a [u8], GuardError> {
        let count = usize::try_from(count).map_err(|_| GuardError::Malformed)?;
        if count > self.rest.len() {
            return Err(GuardError::Malformed);
        }
        let (taken, rest) = self.rest.split_at(count);
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, GuardError> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn unsigned(&mut self) -> Result<u64, GuardError> {
        let mut value: u64 = 0;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(GuardError::Malformed);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(GuardError::Malformed)
    }

    pub(super) fn signed(&mut self) -> Result<i64, GuardError> {
        let mut value: i64 = 0;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            value |= i64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                let is_negative = byte & 0x40 != 0;
                return Ok(if is_negative && shift + 7 < 64 { value | (-1i64 << (shift + 7)) } else { value });
            }
        }
        Err(GuardError::Malformed)
    }
}

/// The body of a plain change chunk, and its hash: SHA-256 over the bytes after the checksum.
pub(super) fn open(bytes: &[u8]) -> Result<&[u8], GuardError> {
    let mut reader = Reader { rest: bytes };
    if reader.take(4).map_err(|_| GuardError::Header)? != MAGIC {
        return Err(GuardError::Header);
    }
    reader.take(4).map_err(|_| GuardError::Header)?;
    let chunk = reader.byte()?;
    if chunk != CHUNK_CHANGE {
        return Err(GuardError::ChunkType(chunk));
    }
    let length = reader.unsigned()?;
    let body = reader.take(length)?;
    if reader.rest.is_empty() { Ok(body) } else { Err(GuardError::Trailing) }
}

/// The hash of a plain change chunk: SHA-256 over what follows the checksum. `None` where the header is malformed.
pub fn hash_of(bytes: &[u8]) -> Option<ChangeHash> {
    use sha2::Digest;
    open(bytes).ok()?;
    Some(ChangeHash(sha2::Sha256::digest(&bytes[8..]).into()))
}

/// Checks header, chunk type and the rows of every column, in time and memory proportional to the bytes.
pub fn guard(bytes: &[u8]) -> Result<(), GuardError> {
    let mut reader = Reader { rest: open(bytes)? };
    let deps = reader.unsigned()?;
    reader.take(deps.checked_mul(32).ok_or(GuardError::Malformed)?)?;
    skip_bytes(&mut reader)?; // actor
    reader.unsigned()?; // seq
    reader.unsigned()?; // start_op
    reader.signed()?; // time
    skip_bytes(&mut reader)?; // message
    let others = reader.unsigned()?;
    if others > PREDECESSORS_MAX {
        return Err(GuardError::Rows);
    }
    for _ in 0..others {
        skip_bytes(&mut reader)?;
    }
    guard_columns(&mut reader)
}

fn skip_bytes(reader: &mut Reader<'_>) -> Result<(), GuardError> {
    let length = reader.unsigned()?;
    reader.take(length).map(|_| ())
}

fn guard_columns(reader: &mut Reader<'_>) -> Result<(), GuardError> {
    let count = reader.unsigned()?;
    if count > COLUMNS_MAX {
        return Err(GuardError::Rows);
    }
    let mut columns = Vec::with_capacity(count as usize);
    for _ in 0..count {
        columns.push((reader.unsigned()?, reader.unsigned()?));
    }
    for (specification, length) in columns {
        let mut column = Reader { rest: reader.take(length)? };
        // The last four bits: compressed or not, then the type. Predecessor columns belong to group 7.
        let limit = if specification >> 4 == 7 && specification & 7 != 0 { PREDECESSORS_MAX } else { OPERATIONS_MAX };
        match specification & 15 {
            0 => rows(&mut column, limit, Cell::Count)?,
            1 | 2 | 6 => rows(&mut column, limit, Cell::Unsigned)?,
            3 => rows(&mut column, limit, Cell::Signed)?,
            4 => boolean_rows(&mut column, limit)?,
            5 => rows(&mut column, limit, Cell::Text)?,
            7 => {}
            other => return Err(GuardError::Column(other)),
        }
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum Cell {
    /// A number of rows in the columns of the same group; their sum is limited too.
    Count,
    Unsigned,
    Signed,
    Text,
}

/// Walks a run-length encoded column: a positive length repeats one cell, a negative one is so many cells, 0 is
/// followed by a number of nulls.
fn rows(column: &mut Reader<'_>, limit: u64, cell: Cell) -> Result<(), GuardError> {
    let mut total: u64 = 0;
    let mut group: u64 = 0;
    while !column.rest.is_empty() {
        let run = column.signed()?;
        let (cells, repeat) = match run {
            1.. => (1, run.unsigned_abs()),
            0 => (0, column.unsigned()?),
            _ => (run.unsigned_abs(), 1),
        };
        total = total.saturating_add(repeat.max(cells));
        if total > limit {
            return Err(GuardError::Rows);
        }
        for _ in 0..cells {
            group = group.saturating_add(read_cell(column, cell)?.saturating_mul(repeat));
            if group > PREDECESSORS_MAX {
                return Err(GuardError::Rows);
            }
        }
    }
    Ok(())
}

/// Reads one cell; the rows that it asks for in its group's columns.
fn read_cell(column: &mut Reader<'_>, cell: Cell) -> Result<u64, GuardError> {
    match cell {
        Cell::Count => column.unsigned(),
        Cell::Unsigned => column.unsigned().map(|_| 0),
        Cell::Signed => column.signed().map(|_| 0),
        Cell::Text => {
            let length = column.unsigned()?;
            // A repeated text is cloned for each row, so its length is limited before it is read.
            if length > PATH_BYTES_MAX as u64 {
                return Err(GuardError::Rows);
            }
            column.take(length).map(|_| 0)
        }
    }
}

fn boolean_rows(column: &mut Reader<'_>, limit: u64) -> Result<(), GuardError> {
    let mut total: u64 = 0;
    while !column.rest.is_empty() {
        total = total.saturating_add(column.unsigned()?);
        if total > limit {
            return Err(GuardError::Rows);
        }
    }
    Ok(())
}
