#[path = "../../../tests/it"]
mod it {
    mod forgetful;
}
