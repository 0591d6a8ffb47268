"""What an app needs beside a model file: code that prepares a picture, runs the file and reads its answer."""
