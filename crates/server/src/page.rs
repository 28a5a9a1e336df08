//! The web page: files that are part of the program, so that it works offline and needs no build.

/// A file of the page.
pub(crate) struct Asset {
    path: &'static str,
    /// What it is, as browsers want to know it.
    pub(crate) kind: &'static str,
    pub(crate) bytes: &'static [u8],
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

macro_rules! assets {
    ($($path:literal is $file:literal, $kind:ident;)*) => {
        &[$(Asset {
            path: $path,
            kind: $kind,
            bytes: include_bytes!(concat!("page/", $file)),
        }),*]
    };
}

const ASSETS: &[Asset] = assets! {
    "/api.js" is "api.js", SCRIPT;
    "/charts.js" is "charts.js", SCRIPT;
    "/checkpoints.js" is "checkpoints.js", SCRIPT;
    "/draw.js" is "draw.js", SCRIPT;
    "/graph.js" is "graph.js", SCRIPT;
    "/" is "index.html", HTML;
    "/operations.js" is "operations.js", SCRIPT;
    "/page.css" is "page.css", CSS;
    "/page.js" is "page.js", SCRIPT;
    "/panels.js" is "panels.js", SCRIPT;
    "/rates.js" is "rates.js", SCRIPT;
    "/uplot.LICENSE" is "uplot.LICENSE", TEXT;
    "/uplot.css" is "uplot.css", CSS;
    "/uplot.js" is "uplot.js", SCRIPT;
    "/words.js" is "words.js", SCRIPT;
};

/// The file that this path names.
pub(crate) fn find(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}
