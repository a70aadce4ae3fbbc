//! What a person sees when a verb of the lab does not work.

use serde::{Deserialize, Serialize};

use super::network::NetworkError;
use crate::bench::note;
use crate::sim::topology::TopologyError;

/// What must hold does not.
pub(crate) const NEGATIVE: u8 = 1;
/// The verb cannot be done.
pub(crate) const FAILED: u8 = 2;
/// This machine cannot hold a lab: what test runners take for skipped.
pub(crate) const SKIPPED: u8 = 77;

/// Why a verb did not work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{error}")]
pub(crate) struct Failure {
    code: u8,
    error: String,
    cause: Option<String>,
    hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(error: impl Into<String>) -> Failure {
        Failure { code: FAILED, error: error.into(), cause: None, hint: None }
    }

    pub(crate) fn cause(self, cause: impl ToString) -> Failure {
        Failure { cause: Some(cause.to_string()), ..self }
    }

    /// A command that can be run.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Failure {
        Failure { hint: Some(hint.into()), ..self }
    }

    /// Says it, and returns the exit code.
    pub(crate) fn report(&self) -> u8 {
        note(&format!("error: {}", self.error));
        if let Some(cause) = &self.cause {
            note(&format!("cause: {cause}"));
        }
        if let Some(hint) = &self.hint {
            note(&format!("hint: {hint}"));
        }
        if self.code == SKIPPED {
            note(&format!("skipped: {}", self.cause.as_ref().unwrap_or(&self.error)));
        }
        self.code
    }
}

impl From<NetworkError> for Failure {
    fn from(error: NetworkError) -> Failure {
        let failure = Failure::new("there is no network for a lab").cause(&error);
        match error {
            NetworkError::NotRoot => Failure { code: SKIPPED, ..failure }.hint("sudo testnet lab up lan-12"),
            NetworkError::Unavailable(_) => Failure { code: SKIPPED, ..failure }.hint("ls -l /dev/net/tun"),
            NetworkError::TooMany(_) => failure.hint("testnet lab up fleet-200-8z --nodes 25"),
            NetworkError::Host { .. } | NetworkError::Thread(_) => failure.hint("ulimit -n -u"),
        }
    }
}

impl From<TopologyError> for Failure {
    fn from(error: TopologyError) -> Failure {
        Failure::new("the topology cannot be used").cause(error).hint("testnet lab up lan-12")
    }
}

/// What went wrong on the way, told as its chain of causes.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        match error.downcast::<Failure>() {
            Ok(failure) => failure,
            Err(error) => Failure::new("the lab failed").cause(format!("{error:#}")).hint("testnet lab ps"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_root_it_is_skipped_and_otherwise_it_fails() {
        assert_eq!(Failure::from(NetworkError::NotRoot).code, SKIPPED);
        assert_eq!(Failure::from(NetworkError::Unavailable("no TUN".to_owned())).code, SKIPPED);
        assert_eq!(Failure::from(NetworkError::TooMany(300)).code, FAILED);
    }

    #[test]
    fn a_failure_goes_through_anyhow_unchanged() {
        let failure = Failure::new("no").cause("because").hint("testnet lab ps");
        assert_eq!(Failure::from(anyhow::Error::from(failure.clone())), failure);
    }
}
