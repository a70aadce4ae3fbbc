//! Frames on a stream: an unsigned LEB128 length, then that many bytes.

use std::io;

use futures::io::{AsyncRead, AsyncReadExt};

/// Longest frame, bytes. A longer announced length ends the session before anything is allocated.
pub const MAX_FRAME_BYTES: usize = 256 * 1024;
/// What a frame costs in a writer's budget beyond its own bytes: the longest length prefix of a legal frame.
pub const FRAME_OVERHEAD_BYTES: usize = 3;
/// Longest length prefix that is read: a u64.
const MAX_PREFIX_BYTES: u32 = 10;
/// Allocated before any byte of a frame has come; the rest grows as bytes come, so that a length alone costs little.
const FIRST_ALLOCATION_BYTES: usize = 16 * 1024;

/// Why no frame could be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a frame of {0} bytes is above the limit")]
    TooLong(u64),
    #[error("malformed frame length")]
    Malformed,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Appends the length prefix of a frame of `len` bytes.
pub(crate) fn push_prefix(len: usize, out: &mut Vec<u8>) {
    let mut rest = len;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Appends a whole frame.
pub(crate) fn push_frame(frame: &[u8], out: &mut Vec<u8>) {
    push_prefix(frame.len(), out);
    out.extend_from_slice(frame);
}

/// Reads one frame of at most `max_bytes`. `None`: the stream ended in good order, between frames.
pub(crate) async fn read_frame<R>(stream: &mut R, max_bytes: usize) -> Result<Option<Vec<u8>>, FrameError>
where
    R: AsyncRead + Unpin,
{
    let Some(announced) = read_prefix(stream).await? else { return Ok(None) };
    let len = match usize::try_from(announced) {
        Ok(len) if len <= max_bytes => len,
        _ => return Err(FrameError::TooLong(announced)),
    };
    let mut frame = Vec::with_capacity(len.min(FIRST_ALLOCATION_BYTES));
    stream.take(announced).read_to_end(&mut frame).await?;
    if frame.len() < len {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(Some(frame))
}

/// The length prefix; `None` at the end of the stream. Only the shortest encoding of a number is legal.
async fn read_prefix<R>(stream: &mut R) -> Result<Option<u64>, FrameError>
where
    R: AsyncRead + Unpin,
{
    let mut value = 0u64;
    for index in 0..MAX_PREFIX_BYTES {
        let mut byte = [0];
        if stream.read(&mut byte).await? == 0 {
            return if index == 0 { Ok(None) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()) };
        }
        let group = u64::from(byte[0] & 0x7f);
        let overflows = index + 1 == MAX_PREFIX_BYTES && byte[0] > 1;
        let padded = index > 0 && byte[0] == 0;
        if overflows || padded {
            return Err(FrameError::Malformed);
        }
        value |= group << (7 * index);
        if byte[0] < 0x80 {
            return Ok(Some(value));
        }
    }
    Err(FrameError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use futures::io::Cursor;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Result<Option<Vec<u8>>, FrameError> {
        block_on(read_frame(&mut Cursor::new(bytes), MAX_FRAME_BYTES))
    }

    #[test]
    fn golden_prefixes() {
        for (len, hex) in
            [(0, vec![0x00]), (127, vec![0x7f]), (128, vec![0x80, 0x01]), (262_144, vec![0x80, 0x80, 0x10])]
        {
            let mut out = Vec::new();
            push_prefix(len, &mut out);
            assert_eq!(out, hex);
            assert!(out.len() <= FRAME_OVERHEAD_BYTES);
        }
    }

    #[test]
    fn a_frame_at_the_limit_passes_and_one_above_is_refused() {
        let mut at_limit = Vec::new();
        push_frame(&vec![1; MAX_FRAME_BYTES], &mut at_limit);
        assert_eq!(read(&at_limit).expect("legal").expect("a frame").len(), MAX_FRAME_BYTES);
        let mut above = Vec::new();
        push_prefix(MAX_FRAME_BYTES + 1, &mut above);
        assert!(matches!(read(&above), Err(FrameError::TooLong(262_145))));
        let most = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert!(matches!(read(&most), Err(FrameError::TooLong(u64::MAX))));
    }

    #[test]
    fn malformed_lengths_are_refused() {
        assert!(matches!(read(&[0x80, 0x00]), Err(FrameError::Malformed)));
        assert!(matches!(read(&[0xff; 11]), Err(FrameError::Malformed)));
        assert!(matches!(
            read(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]),
            Err(FrameError::Malformed)
        ));
    }

    #[test]
    fn an_end_between_frames_is_an_end_and_inside_one_is_an_error() {
        assert!(matches!(read(&[]), Ok(None)));
        assert!(matches!(read(&[0x80]), Err(FrameError::Io(_))));
        assert!(matches!(read(&[0x05, 1, 2]), Err(FrameError::Io(_))));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..20)) {
            let mut bytes = Vec::new();
            frames.iter().for_each(|frame| push_frame(frame, &mut bytes));
            let mut stream = Cursor::new(bytes);
            for frame in frames {
                prop_assert_eq!(block_on(read_frame(&mut stream, MAX_FRAME_BYTES)).expect("legal"), Some(frame));
            }
            prop_assert!(matches!(block_on(read_frame(&mut stream, MAX_FRAME_BYTES)), Ok(None)));
        }

        #[test]
        fn no_bytes_panic_the_reader(bytes: Vec<u8>) {
            let _ = read(&bytes);
        }
    }
}
