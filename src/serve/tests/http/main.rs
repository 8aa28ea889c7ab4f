//! The server as clients use it: access, the API, and the page in a browser.

mod access;
mod api;
mod page;
#[path = "../../../../tests/common/skip.rs"]
mod skip;
mod support;
#[path = "../../../../tests/common/webdriver.rs"]
mod webdriver;
