//! Settings: flags over `FLEETSYNC_*` over a TOML file over defaults; each value knows where it came from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// A setting: its name in the file, its default and what it is for.
struct Known {
    name: &'static str,
    default: &'static str,
    about: &'static str,
}

const KNOWN: [Known; 19] = [
    Known { name: "keys", default: "", about: "the person's keys folder; empty for the user's config folder" },
    Known {
        name: "listen",
        default: "0.0.0.0,::",
        about: "local addresses of the mesh, joined by commas; none to dial others only",
    },
    Known {
        name: "port",
        default: "",
        about: "the mesh's port, UDP and TCP; empty for 4410 or a free one, 0 for a free one",
    },
    Known {
        name: "bulk.port",
        default: "",
        about: "the bulk plane's UDP port; empty for 4411 or a free one, 0 for a free one",
    },
    Known {
        name: "bulk.max_rate",
        default: "0",
        about: "bytes a second that others may have of this device's blobs; 0 is no limit",
    },
    Known {
        name: "bulk.backfill",
        default: "true",
        about: "have what peers send after the first MiB come over the bulk plane",
    },
    Known {
        name: "relay.max_rate",
        default: "0",
        about: "bytes a second of blobs that this device passes on for others, and as many of questions; 0 is no limit",
    },
    Known {
        name: "relay.circuits",
        default: "true",
        about: "carry circuits for members that nobody can dial, and ask others where nobody can dial this device",
    },
    Known { name: "dcutr", default: "true", about: "punch holes into address translation at the end of circuits" },
    Known {
        name: "autonat",
        default: "true",
        about: "have others dial back, to know whether they reach this device, and dial back for members",
    },
    Known { name: "mdns", default: "true", about: "find members on the local network by multicast DNS" },
    Known {
        name: "metered",
        default: "false",
        about: "this device pays for what it sends: it is asked less, and probes its links less often",
    },
    Known { name: "passphrase_file", default: "", about: "file with the passphrase of the person's keys" },
    Known {
        name: "telemetry.interval_min_ms",
        default: "10000",
        about: "shortest time between two changes of a document",
    },
    Known { name: "telemetry.budget_bytes_per_s", default: "8000", about: "what all telemetry of the scope may cost" },
    Known { name: "telemetry.root", default: "/", about: "folder under which sysfs, procfs and etc are read" },
    Known {
        name: "telemetry.replay",
        default: "",
        about: "folder whose files are replayed in place of this machine's",
    },
    Known {
        name: "log",
        default: "info,libp2p_swarm=warn,transport=warn",
        about: "log filter: LEVEL or TARGET=LEVEL, joined by commas",
    },
    Known { name: "log_format", default: "text", about: "text or json" },
];

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A flag.
    Flag,
    /// An environment variable.
    Environment(String),
    /// The settings file.
    File(PathBuf),
    /// Built in.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag => f.write_str("flag"),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::File(path) => write!(f, "file {}", path.display()),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SettingsError {
    #[error("{path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {message}")]
    Syntax { path: PathBuf, message: String },
    #[error("{origin}: there is no setting {name}; there are {}", names())]
    Unknown { origin: Origin, name: String },
    #[error("there is no variable {name}; there are {}", variables().join(", "))]
    UnknownVariable { name: String },
    #[error("{origin}: {name} = {value:?}: {expected} is expected")]
    Value { origin: Origin, name: &'static str, value: String, expected: &'static str },
}

fn names() -> String {
    KNOWN.map(|known| known.name).join(", ")
}

/// A value with its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) value: String,
    pub(crate) origin: Origin,
}

/// All settings.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    values: BTreeMap<&'static str, Setting>,
}

/// What the environment may say that is no setting: where a node is, and how a device enrols.
const OTHER_VARIABLES: [&str; 4] = ["FLEETSYNC_DATA_DIR", "FLEETSYNC_API", "FLEETSYNC_TICKET", "FLEETSYNC_TICKET_FILE"];

fn variables() -> Vec<String> {
    let others = OTHER_VARIABLES.map(str::to_owned);
    KNOWN.iter().map(|known| variable(known.name)).chain(others).collect()
}

/// Fails where the environment has a variable of this program's that means nothing.
pub(crate) fn check_variables(names: impl Iterator<Item = String>) -> Result<(), SettingsError> {
    let known = variables();
    let unknown = names.filter(|name| name.starts_with("FLEETSYNC_") && !known.contains(name)).min();
    unknown.map_or(Ok(()), |name| Err(SettingsError::UnknownVariable { name }))
}

fn variable(name: &str) -> String {
    format!("FLEETSYNC_{}", name.to_uppercase().replace(['.', '-'], "_"))
}

impl Settings {
    /// Layers flags over the environment over the file (where it exists) over defaults.
    pub(crate) fn load(
        flags: &[(&'static str, Option<String>)],
        environment: &dyn Fn(&str) -> Option<String>,
        file: &Path,
    ) -> Result<Settings, SettingsError> {
        let mut from_file = read_file(file)?;
        let mut values = BTreeMap::new();
        for known in KNOWN {
            let name = known.name;
            let flag = flags.iter().find(|(flag, _)| *flag == name).and_then(|(_, value)| value.clone());
            let variable = variable(name);
            let setting = if let Some(value) = flag {
                Setting { value, origin: Origin::Flag }
            } else if let Some(value) = environment(&variable) {
                Setting { value, origin: Origin::Environment(variable) }
            } else if let Some(value) = from_file.remove(name) {
                Setting { value, origin: Origin::File(file.to_owned()) }
            } else {
                Setting { value: known.default.to_owned(), origin: Origin::Default }
            };
            from_file.remove(name);
            values.insert(name, setting);
        }
        match from_file.into_keys().next() {
            Some(name) => Err(SettingsError::Unknown { origin: Origin::File(file.to_owned()), name }),
            None => Ok(Settings { values }),
        }
    }

    fn setting(&self, name: &'static str) -> &Setting {
        self.values.get(name).expect("every known setting has a value")
    }

    /// A text; `None` where it is empty.
    pub(crate) fn text(&self, name: &'static str) -> Option<&str> {
        Some(self.setting(name).value.as_str()).filter(|value| !value.is_empty())
    }

    /// A value that parses as `T`.
    pub(crate) fn parse<T: std::str::FromStr>(
        &self,
        name: &'static str,
        expected: &'static str,
    ) -> Result<T, SettingsError> {
        let setting = self.setting(name);
        setting.value.parse().map_err(|_| SettingsError::Value {
            origin: setting.origin.clone(),
            name,
            value: setting.value.clone(),
            expected,
        })
    }

    /// Every setting with its name and what it is for.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, &Setting, &'static str)> {
        KNOWN.iter().map(|known| (known.name, self.setting(known.name), known.about))
    }
}

fn read_file(path: &Path) -> Result<BTreeMap<String, String>, SettingsError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(source) => return Err(SettingsError::Read { path: path.to_owned(), source }),
    };
    let syntax = |message: String| SettingsError::Syntax { path: path.to_owned(), message };
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| syntax(error.to_string()))?;
    let mut values = BTreeMap::new();
    flatten("", table, &mut values).map_err(syntax)?;
    Ok(values)
}

fn flatten(prefix: &str, table: toml::Table, values: &mut BTreeMap<String, String>) -> Result<(), String> {
    for (key, value) in table {
        let name = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
        match value {
            toml::Value::Table(inner) => flatten(&name, inner, values)?,
            toml::Value::String(text) => {
                values.insert(name, text);
            }
            toml::Value::Integer(_) | toml::Value::Boolean(_) => {
                values.insert(name, value.to_string());
            }
            other => {
                return Err(format!("{name} is a {}, but a text, number or boolean is expected", other.type_str()));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &str, environment: &[(&str, &str)], port: Option<&str>) -> Result<Settings, SettingsError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, file).unwrap();
        let look =
            |name: &str| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Settings::load(&[("port", port.map(str::to_owned))], &look, &path)
    }

    #[test]
    fn flags_over_environment_over_file_over_defaults() {
        let file = "port = 1\nmdns = false\n[telemetry]\ninterval_min_ms = 5";
        let settings = load(file, &[("FLEETSYNC_PORT", "2"), ("FLEETSYNC_LOG", "debug")], Some("3")).unwrap();
        assert_eq!((settings.text("port"), &settings.setting("port").origin), (Some("3"), &Origin::Flag));
        assert_eq!(settings.text("log"), Some("debug"));
        assert!(!settings.parse::<bool>("mdns", "true or false").unwrap());
        assert_eq!(settings.parse::<u64>("telemetry.interval_min_ms", "a number").unwrap(), 5);
        assert_eq!(settings.setting("listen").origin, Origin::Default);
        assert!(load(file, &[], None).unwrap().setting("port").origin.to_string().starts_with("file "));
    }

    #[test]
    fn unknown_variables_are_named() {
        let check = |names: &[&str]| check_variables(names.iter().map(|name| (*name).to_owned()));
        assert!(
            check(&["HOME", "FLEETSYNC", "FLEETSYNC_KEYS", "FLEETSYNC_TELEMETRY_ROOT", "FLEETSYNC_TICKET"]).is_ok()
        );
        let error = check(&["FLEETSYNC_KEYS", "FLEETSYNC_DATADIR"]).unwrap_err().to_string();
        assert!(error.contains("FLEETSYNC_DATADIR;") && error.contains("FLEETSYNC_DATA_DIR"), "{error}");
    }

    #[test]
    fn unknown_settings_and_bad_values_are_named() {
        let error = load("prot = 1", &[], None).unwrap_err().to_string();
        assert!(error.contains("no setting prot") && error.contains("port"), "{error}");
        assert!(load("port = [1]", &[], None).is_err());
        assert!(load("port = ", &[], None).is_err());
        let settings = load("", &[("FLEETSYNC_MDNS", "maybe")], None).unwrap();
        let error = settings.parse::<bool>("mdns", "true or false").unwrap_err().to_string();
        assert!(error.contains("FLEETSYNC_MDNS") && error.contains("maybe"), "{error}");
    }
}
