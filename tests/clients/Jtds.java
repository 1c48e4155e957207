// Speaks TDS 5.0 through jTDS: one request for each line of standard input, and what came back as lines of standard output.
//
// Usage: Jtds HOST PORT USER PASSWORD. A line "@timeout SECONDS SQL" lets jTDS cancel the request after that time.

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.SQLTimeoutException;
import java.sql.Statement;

public final class Jtds {
    private static final PrintStream OUT = new PrintStream(System.out, false, StandardCharsets.UTF_8);

    public static void main(String[] arguments) throws IOException {
        String url = "jdbc:jtds:sybase://" + arguments[0] + ":" + arguments[1] + ";TDS=5.0;charset=UTF-8;appName=jTDS";
        try (Connection connection = DriverManager.getConnection(url, arguments[2], arguments[3])) {
            say("ready");
            BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                request(connection, line);
            }
        } catch (SQLException error) {
            // Closing a session that the server has closed fails too; that it was lost has been said by then.
            say("refused", error.getMessage());
        }
    }

    private static void request(Connection connection, String line) {
        try (Statement statement = connection.createStatement()) {
            String sql = line;
            if (line.startsWith("@timeout ")) {
                String[] words = line.split(" ", 3);
                statement.setQueryTimeout(Integer.parseInt(words[1]));
                sql = words[2];
            }
            boolean isTable = statement.execute(sql);
            while (isTable || statement.getUpdateCount() != -1) {
                if (isTable) {
                    rows(statement.getResultSet());
                }
                isTable = statement.getMoreResults();
            }
        } catch (SQLTimeoutException error) {
            say("cancelled", error.getMessage());
        } catch (SQLException error) {
            // "HYT00" and "HYT01" are time-outs, class 08 is a lost connection.
            String state = String.valueOf(error.getSQLState());
            say(state.startsWith("HYT") ? "cancelled" : state.startsWith("08") ? "lost" : "error", error.getMessage());
        }
        say("end");
    }

    private static void rows(ResultSet table) throws SQLException {
        int columns = table.getMetaData().getColumnCount();
        while (table.next()) {
            StringBuilder row = new StringBuilder("row");
            for (int column = 1; column <= columns; column++) {
                row.append('\t').append(table.getString(column));
            }
            OUT.println(row);
        }
    }

    private static void say(String word) {
        OUT.println(word);
        OUT.flush();
    }

    private static void say(String word, String text) {
        say(word + "\t" + String.valueOf(text).replace('\n', ' ').replace('\r', ' '));
    }
}
