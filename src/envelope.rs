//! An error in one of the shapes that the API itself uses: whose word a status is.

/// An error as the API writes it; a gateway's own error has no such shape.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// `{"success": false, "error_code": …}`: the current shape. Otherwise an older one, `{"error": {"code": …}}`.
    pub is_current: bool,
    /// `error_code`, or `error.code`.
    pub code: String,
    /// `error_message` or `error`, or `error.message`.
    pub message: Option<String>,
    /// `error_id`, or `error.correlation_id` or `error.id`: documented as the correlation ID of the request.
    pub error_id: Option<String>,
}
