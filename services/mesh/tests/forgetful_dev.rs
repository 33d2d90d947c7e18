#[path = "../../../tests/it/forgetful.rs"]
mod forgetful;
