use skipstone::{Error, Kind};

/// Why work was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The request is not valid; the message is for the caller.
    Refused(String),
    /// The thing asked for does not exist; the message is for the caller.
    Missing(String),
    /// The network's numbers were not finite: the model and the options do not go together.
    NotFinite(String),
    /// Too many requests wait already.
    Busy {
        /// Seconds until there is probably a place.
        retry_after: u64,
    },
    /// The service is shutting down.
    ShuttingDown,
    /// A fault of the service; the message is for the log alone.
    Internal(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error.kind() {
            // Without the path: callers must not learn where files lie.
            Kind::InvalidArgument | Kind::InvalidData | Kind::Unsupported | Kind::NotFound => {
                Self::Refused(error.message().to_owned())
            }
            Kind::NonFinite => Self::NotFinite(error.message().to_owned()),
            _ => Self::Internal(error.to_string()),
        }
    }
}
