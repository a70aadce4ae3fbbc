//! The command line. Each verb lives in a file of its own; what they share is here.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::client::{Client, ClientError};
use crate::keys::{KeyError, Passphrase, quoted};
use crate::output::{Format, note};
use crate::settings::{Origin, Settings, SettingsError, check_variables};

mod blob;
mod config;
mod device;
mod doctor;
mod document;
mod enrol;
mod events;
mod member;
mod node;
mod observe;
mod ping;
mod route;
mod run;
mod sign;
mod ticket;
mod watch;

/// Every device of a fleet knows the whole fleet: hardware, environment, resources, configuration and policy,
/// without a coordinator.
#[derive(Parser)]
#[command(name = "fleetsync", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every verb takes.
#[derive(Args, Clone)]
pub(crate) struct Common {
    /// The node's data folder [default: the user's data folder, fleetsync]
    #[arg(long, global = true, value_name = "DIR", env = "FLEETSYNC_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// The person's keys [default: the user's config folder, fleetsync]
    #[arg(long, global = true, value_name = "DIR")]
    keys: Option<PathBuf>,
    /// The node's API [default: unix:DATA_DIR/api.sock]
    #[arg(long, global = true, value_name = "unix:PATH", env = "FLEETSYNC_API")]
    api: Option<String>,
    /// The form of output
    #[arg(short, long, global = true, value_parser = Format::common(), default_value = "table")]
    output: Format,
    /// A file with the passphrase of the person's keys
    #[arg(long, global = true, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Found a fleet, with this device as its first member
    Init(enrol::InitArgs),
    /// Make this device a member, with a ticket
    Join(enrol::JoinArgs),
    /// Run the node
    Run(run::RunArgs),
    /// What the node holds and whom it is linked with
    Status {
        /// Again every second, until interrupted
        #[arg(long)]
        watch: bool,
    },
    /// What is wrong with the node, and what to do about it
    Doctor,
    /// What happens on the node, and the last moves of the mesh
    Events(events::EventsArgs),
    /// Devices: facts and assigned attributes
    #[command(subcommand)]
    Device(device::DeviceCommand),
    /// Peers and the links to them
    #[command(subcommand)]
    Peer(observe::PeerCommand),
    /// Ways to other devices, and the whole mesh
    #[command(subcommand)]
    Route(route::RouteCommand),
    /// Documents as they are replicated
    #[command(subcommand)]
    Doc(document::DocCommand),
    /// Blobs: files by their hash, fetched from any device that has them
    #[command(subcommand)]
    Blob(blob::BlobCommand),
    /// Configurations that operators edit anywhere
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Members and invitations
    #[command(subcommand)]
    Member(member::MemberCommand),
    /// The person's keys
    #[command(subcommand)]
    Key(member::KeyCommand),
    /// The node itself
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// A failure as a person sees it.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    error: String,
    cause: Option<String>,
    hint: Option<String>,
}

/// Exit codes (DESIGN 5).
pub(crate) mod code {
    pub(crate) const NEGATIVE: u8 = 1;
    pub(crate) const USAGE: u8 = 2;
    pub(crate) const UNREACHABLE: u8 = 3;
    pub(crate) const NOT_FOUND: u8 = 4;
    pub(crate) const REFUSED: u8 = 5;
}

pub(crate) type Outcome = Result<(), Failure>;

impl Failure {
    pub(crate) fn new(code: u8, error: impl Into<String>) -> Failure {
        Failure { code, error: error.into(), cause: None, hint: None }
    }

    pub(crate) fn cause(mut self, cause: impl ToString) -> Failure {
        self.cause = Some(cause.to_string());
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    fn report(&self) -> ExitCode {
        note(&format!("error: {}", self.error));
        if let Some(cause) = &self.cause {
            note(&format!("cause: {cause}"));
        }
        if let Some(hint) = &self.hint {
            note(&format!("hint: {hint}"));
        }
        ExitCode::from(self.code)
    }
}

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Failure {
        let hint = match &error {
            SettingsError::Read { path, .. } => {
                let hint = format!("ls -l {}", quoted(path));
                return Failure::new(code::REFUSED, "the settings cannot be read").cause(error).hint(hint);
            }
            SettingsError::Syntax { path, .. } => format!("cat {}", quoted(path)),
            SettingsError::UnknownVariable { name } => format!("unset {name}"),
            SettingsError::Unknown { origin, .. } | SettingsError::Value { origin, .. } => match origin {
                Origin::File(path) => format!("cat {}", quoted(path)),
                Origin::Environment(name) => format!("unset {name}"),
                Origin::Flag | Origin::Default => "fleetsync run --help".to_owned(),
            },
        };
        Failure::new(code::USAGE, "a setting cannot be used").cause(error).hint(hint)
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Failure {
        Failure::new(code::REFUSED, error.to_string()).hint(error.hint())
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        match error {
            ClientError::Unreachable { path, source } => {
                let folder = quoted(path.parent().unwrap_or(Path::new(".")));
                Failure::new(code::UNREACHABLE, "no node answers")
                    .cause(format!("{}: {source}", path.display()))
                    .hint(format!("fleetsync run --data-dir {folder}"))
            }
            ClientError::Broken(cause) => Failure::new(code::UNREACHABLE, "the connection to the node broke")
                .cause(cause)
                .hint("fleetsync status"),
            ClientError::Problem { status, detail, body } => {
                let code = match status {
                    404 => code::NOT_FOUND,
                    400 | 413 => code::USAGE,
                    504 => code::NEGATIVE,
                    _ => code::REFUSED,
                };
                let title = body["title"].as_str().unwrap_or("the node refused").to_owned();
                let hint = body["hint"].as_str().unwrap_or(match status {
                    404 => "fleetsync doc ls",
                    400 | 413 => "fleetsync help",
                    _ => "fleetsync status",
                });
                Failure::new(code, title).cause(detail).hint(hint)
            }
        }
    }
}

impl Common {
    /// The node's data folder.
    pub(crate) fn data_dir(&self) -> Result<PathBuf, Failure> {
        if let Some(folder) = &self.data_dir {
            return Ok(folder.clone());
        }
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
        std::env::var_os("XDG_DATA_HOME")
            .map(PathBuf::from)
            .or_else(home)
            .map(|folder| folder.join("fleetsync"))
            .ok_or_else(|| Failure::new(code::USAGE, "there is no home folder").hint("fleetsync --data-dir DIR status"))
    }

    /// The settings of the node in that folder.
    pub(crate) fn settings(&self, flags: &[(&'static str, Option<String>)]) -> Result<Settings, Failure> {
        let folder = self.data_dir()?;
        let mut all = flags.to_vec();
        all.push(("keys", self.keys.as_ref().map(|path| path.display().to_string())));
        all.push(("passphrase_file", self.passphrase_file.as_ref().map(|path| path.display().to_string())));
        Ok(Settings::load(&all, &|name| std::env::var(name).ok(), &folder.join("config.toml"))?)
    }

    /// The person's keys folder.
    pub(crate) fn keys_dir(&self) -> Result<PathBuf, Failure> {
        match self.settings(&[])?.text("keys") {
            Some(folder) => Ok(PathBuf::from(folder)),
            None => Ok(crate::keys::default_folder()?),
        }
    }

    /// How to unlock a key.
    pub(crate) fn passphrase(&self) -> Result<Passphrase, Failure> {
        Ok(match self.settings(&[])?.text("passphrase_file") {
            Some(file) => Passphrase::File(PathBuf::from(file)),
            None => Passphrase::Ask,
        })
    }

    /// The API's socket.
    pub(crate) fn socket(&self) -> Result<PathBuf, Failure> {
        match self.api.as_deref().map(|api| (api, api.strip_prefix("unix:"))) {
            None => Ok(self.data_dir()?.join("api.sock")),
            Some((_, Some(path))) => Ok(PathBuf::from(path)),
            Some((api, None)) => Err(Failure::new(code::USAGE, format!("{api:?} is no API address"))
                .hint("fleetsync --api unix:DATA_DIR/api.sock status")),
        }
    }

    /// A connection to the node.
    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        Ok(Client::connect(&self.socket()?).await?)
    }

    /// The form of output.
    pub(crate) fn format(&self) -> Format {
        self.output
    }
}

/// Parses, runs, and turns failures into exit codes.
pub(crate) fn main() -> ExitCode {
    let Cli { common, command } = Cli::parse();
    let threads = if matches!(command, Command::Run(_)) { 2 } else { 1 };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return Failure::new(code::REFUSED, "the runtime did not start").cause(error).report(),
    };
    let outcome = runtime.block_on(dispatch(&common, command));
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

async fn dispatch(common: &Common, command: Command) -> Outcome {
    check_variables(std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()))?;
    match command {
        Command::Init(args) => enrol::init(common, args),
        Command::Join(args) => enrol::join(common, &args).await,
        Command::Run(args) => run::run(common, args).await,
        Command::Status { watch } => observe::status(common, watch).await,
        Command::Doctor => doctor::run(common).await,
        Command::Events(args) => events::run(common, args).await,
        Command::Device(command) => device::run(common, command).await,
        Command::Peer(command) => observe::peer(common, command).await,
        Command::Route(command) => route::run(common, command).await,
        Command::Doc(command) => document::run(common, command).await,
        Command::Blob(command) => blob::run(common, command).await,
        Command::Config(command) => config::run(common, command).await,
        Command::Member(command) => member::run(common, command).await,
        Command::Key(command) => member::key(common, command).await,
        Command::Node(command) => node::run(common, command).await,
        Command::Completions { shell } => {
            let mut command = <Cli as clap::CommandFactory>::command();
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command, "fleetsync", &mut script);
            crate::output::print(&String::from_utf8_lossy(&script));
            Ok(())
        }
    }
}
