//! The service manager that started this process, and what it is told: datagrams of lines `NAME=VALUE`, as sd_notify(3)
//! describes them. Without `NOTIFY_SOCKET` there is none.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

/// The way to the service manager.
#[derive(Debug, Clone)]
pub(crate) struct Supervisor {
    socket: Arc<UnixDatagram>,
    address: SocketAddr,
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// The one that the environment names. A name that cannot be used is told of and counts as none: a node that runs
    /// is worth more than what is said of it.
    pub(crate) fn of_process() -> Option<Supervisor> {
        let variable = |name: &str| std::env::var_os(name);
        let name = variable("NOTIFY_SOCKET").filter(|name| !name.is_empty())?;
        match Supervisor::at(&name, watchdog(&variable, std::process::id())) {
            Ok(supervisor) => Some(supervisor),
            Err(error) => {
                tracing::warn!(%error, "NOTIFY_SOCKET names no socket that can be written to");
                None
            }
        }
    }

    /// The one that listens on a socket: an absolute path, or a name of the abstract namespace behind `@`. It ends this
    /// process where it hears nothing for longer than `watchdog`.
    pub(crate) fn at(name: &OsStr, watchdog: Option<Duration>) -> io::Result<Supervisor> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(name)?,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no absolute path"))),
        };
        let socket = UnixDatagram::unbound()?;
        // Whoever tells must not wait for a manager that does not read.
        socket.set_nonblocking(true)?;
        Ok(Supervisor { socket: Arc::new(socket), address, watchdog })
    }

    /// After how much silence it ends this process; `None` where it does not.
    pub(crate) fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// The node answers.
    pub(crate) fn ready(&self) {
        self.tell("READY=1");
    }

    /// What the node does, in a line for people.
    pub(crate) fn status(&self, line: &str) {
        self.tell(&status(line));
    }

    /// Starting takes longer, by this much from now on.
    pub(crate) fn extend_start(&self, by: Duration) {
        self.tell(&format!("EXTEND_TIMEOUT_USEC={}", by.as_micros()));
    }

    /// The node lives, and what it does.
    pub(crate) fn alive(&self, line: &str) {
        self.tell(&format!("WATCHDOG=1\n{}", status(line)));
    }

    /// The node is about to end.
    pub(crate) fn stopping(&self) {
        self.tell(&format!("STOPPING=1\n{}", status("stopping")));
    }

    fn tell(&self, lines: &str) {
        if let Err(error) = self.socket.send_to_addr(lines.as_bytes(), &self.address) {
            tracing::debug!(%error, "the service manager was not told: {lines:?}");
        }
    }
}

fn status(line: &str) -> String {
    // A line break would begin another assignment.
    format!("STATUS={}", line.replace(char::is_control, " "))
}

/// The silence that ends the process, where a watchdog is set for it and not for another one.
fn watchdog(variable: &dyn Fn(&str) -> Option<OsString>, pid: u32) -> Option<Duration> {
    let number = |name: &str| variable(name).and_then(|value| value.to_str()?.parse::<u64>().ok());
    let is_meant = variable("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(u64::from(pid));
    let micros = number("WATCHDOG_USEC").filter(|micros| *micros > 0 && is_meant)?;
    Some(Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_is_obeyed_where_it_is_for_this_process() {
        let with = |usec: Option<&str>, pid: Option<&str>| {
            let variable = |name: &str| match name {
                "WATCHDOG_USEC" => usec.map(OsString::from),
                _ => pid.map(OsString::from),
            };
            watchdog(&variable, 7)
        };
        let second = Some(Duration::from_secs(1));
        assert_eq!(with(Some("1000000"), None), second);
        assert_eq!(with(Some("1000000"), Some("7")), second);
        assert_eq!(with(Some("1000000"), Some("8")), None);
        assert_eq!(with(Some("1000000"), Some("")), None);
        assert_eq!(with(Some("0"), None), None);
        assert_eq!(with(Some("often"), None), None);
        assert_eq!(with(None, None), None);
    }

    #[test]
    fn a_status_is_one_line() {
        assert_eq!(status("full\nREADY=1"), "STATUS=full READY=1");
    }

    #[test]
    fn only_paths_and_abstract_names_are_sockets() {
        for name in ["", "run/notify", "vsock:2:1"] {
            assert!(Supervisor::at(OsStr::new(name), None).is_err(), "{name:?}");
        }
        let folder = tempfile::tempdir().unwrap();
        // Nobody listens there, and nothing fails.
        Supervisor::at(folder.path().join("none").as_os_str(), None).unwrap().ready();
    }
}
