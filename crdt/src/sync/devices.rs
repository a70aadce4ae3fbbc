//! Devices by number, so that what is kept of each in many places is four bytes.

use crate::id::DeviceId;

/// Devices that were given numbers; a number stands for its device as long as the process runs.
#[derive(Debug, Clone, Default)]
pub(super) struct Devices {
    ids: Vec<DeviceId>,
    /// Numbers in the order of their devices.
    sorted: Vec<u32>,
}

impl Devices {
    /// The number of a device, given to it where it has none.
    pub(super) fn intern(&mut self, device: &DeviceId) -> u32 {
        match self.place(device) {
            Ok(at) => self.sorted[at],
            Err(at) => {
                let number = u32::try_from(self.len()).expect("a fleet has fewer than 2^32 devices");
                make_room(&mut self.ids);
                make_room(&mut self.sorted);
                self.ids.push(*device);
                self.sorted.insert(at, number);
                number
            }
        }
    }

    pub(super) fn find(&self, device: &DeviceId) -> Option<u32> {
        self.place(device).ok().map(|at| self.sorted[at])
    }

    fn place(&self, device: &DeviceId) -> Result<usize, usize> {
        self.sorted.binary_search_by_key(device, |number| self.ids[*number as usize])
    }

    /// The device of a number that was given.
    pub(super) fn id(&self, number: u32) -> &DeviceId {
        &self.ids[number as usize]
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Bytes on the heap.
    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        self.ids.capacity() * size_of::<DeviceId>() + self.sorted.capacity() * size_of::<u32>()
    }
}

/// Makes room for some more, where there is none: doubling would waste as much as there is.
pub(super) fn make_room<T>(rows: &mut Vec<T>) {
    if rows.len() == rows.capacity() {
        rows.reserve_exact(rows.len() / 8 + 4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_and_are_found() {
        let device = |number: u8| DeviceId([number; 32]);
        let mut devices = Devices::default();
        let numbers: Vec<u32> = [7, 3, 9, 3].iter().map(|number| devices.intern(&device(*number))).collect();
        assert_eq!(numbers, [0, 1, 2, 1]);
        assert_eq!(devices.find(&device(9)), Some(2));
        assert_eq!(devices.find(&device(1)), None);
        assert_eq!(*devices.id(1), device(3));
    }
}
