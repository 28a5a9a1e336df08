//! A condition on the request that completes an upload, which the crate below knows for a put only.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use object_store::{ClientOptions, HeaderValue, Result};

/// What the condition is put on, and how such a request is signed again.
pub(super) trait Completion: fmt::Debug + Clone + Send + Sync + 'static {
    /// Whether this request completes an upload.
    fn is_completion(&self, request: &HttpRequest) -> bool;

    /// Makes its signature right again, should that cover conditions.
    fn sign(
        &self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpRequest>> + Send + '_>> {
        Box::pin(async move { Ok(request) })
    }
}

/// Connects clients that complete an upload only if there is no object of its name (`If-None-Match: *`).
#[derive(Debug)]
pub(super) struct Conditional<C>(pub(super) C);

impl<C: Completion> HttpConnector for Conditional<C> {
    fn connect(&self, options: &ClientOptions) -> Result<HttpClient> {
        Ok(HttpClient::new(Service {
            completion: self.0.clone(),
            client: ReqwestConnector::default().connect(options)?,
        }))
    }
}

#[derive(Debug)]
struct Service<C> {
    completion: C,
    client: HttpClient,
}

impl<C: Completion> HttpService for Service<C> {
    // As `async_trait` writes it.
    fn call<'a, 'b>(
        &'a self,
        mut request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = std::result::Result<HttpResponse, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            if self.completion.is_completion(&request) {
                let any = HeaderValue::from_static("*");
                request.headers_mut().insert("if-none-match", any);
                let signed = self.completion.sign(request).await;
                request = signed.map_err(|error| {
                    HttpError::new(object_store::client::HttpErrorKind::Request, error)
                })?;
            }
            self.client.execute(request).await
        })
    }
}
