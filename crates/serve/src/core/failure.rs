use skipstone::{Error, Kind};

/// The reason why work failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The request is not valid; the message is for the caller.
    Refused(String),
    /// The requested thing does not exist; the message is for the caller.
    Missing(String),
    /// The network's output was not finite: the model and the options do not fit together.
    NotFinite(String),
    /// Too many requests are waiting.
    Busy {
        /// Estimated seconds until there is a place.
        retry_after: u64,
    },
    /// The service is shutting down.
    ShuttingDown,
    /// A fault of the service; the message is only for the log.
    Internal(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error.kind() {
            // The path is left out, because callers must not learn where files are.
            Kind::InvalidArgument | Kind::InvalidData | Kind::Unsupported | Kind::NotFound => {
                Self::Refused(with_fields(error.message()))
            }
            Kind::NonFinite => Self::NotFinite(error.message().to_owned()),
            _ => Self::Internal(error.to_string()),
        }
    }
}

/// A message of the library with the name of the request's field: `sigmas` is a flag of the commands.
fn with_fields(message: &str) -> String {
    message.strip_prefix("sigmas:").map_or_else(|| message.to_owned(), |rest| format!("sigma:{rest}"))
}
