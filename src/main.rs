//! The `stentor` binary: flags → configuration → run; errors → one line and an exit status.

use std::process::ExitCode;

use stentor::{
    cli::{self, Command, Exit},
    config::Config,
    server::{Server, log, prepare_allocator, signals},
};

fn main() -> ExitCode {
    match cli::parse(std::env::args_os()) {
        Ok(Command::PrintConfig(config)) => print!("{}", config.flags()),
        Ok(Command::Check(config)) => println!("{}", config.summary()),
        Ok(Command::Serve(config)) => {
            if let Err(exit) = serve(&config) {
                return exit.report();
            }
        }
        Err(exit) => return exit.report(),
    }
    ExitCode::SUCCESS
}

fn serve(config: &Config) -> Result<(), Exit> {
    prepare_allocator();
    log::init(config.log_level);
    let server = Server::start(config).map_err(|error| Exit::mistake(error.to_string()))?;
    signals::drain_on_signal(server.handle())
        .map_err(|error| Exit::mistake(format!("no signals: {error}")))?;
    for address in server.addresses() {
        tracing::info!("listening on http://{address}/ (WebSocket: ws://{address}/ws/TOPIC)");
    }
    server.join().map_err(|error| Exit::mistake(format!("the server has failed: {error}")))?;
    tracing::info!("stopped");
    Ok(())
}
